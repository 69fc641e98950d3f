//! The log in its file: what survives, and what is refused, whatever happened to the file.

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use redb::{Database, ReadableDatabase as _, TableDefinition};
use tempfile::TempDir;

use super::{key::SigningKey, *};

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");

fn config(path: &Path) -> State {
    State::Memory(MemoryState { file: Some(path.to_owned()), volatile: false })
}

fn open(path: &Path) -> Result<(Log, Vec<Vec<u8>>), StateError> {
    let (log, entries) = Log::open(&config(path), None)?;
    Ok((log, entries.into_iter().map(|entry| entry.body).collect()))
}

fn append(log: &Log, body: &str) -> Epoch {
    match log.append("revoke", body.as_bytes()).unwrap() {
        Appended::Done(epoch) => epoch,
        Appended::Behind(entries) => panic!("{entries:?}"),
    }
}

/// A log of three entries, and the text of their bodies.
fn three(folder: &TempDir) -> (PathBuf, Vec<Vec<u8>>) {
    let path = folder.path().join("control.redb");
    let (log, entries) = open(&path).unwrap();
    assert!(entries.is_empty() && log.is_durable());
    let bodies = ["one", "two", "three"];
    for body in bodies {
        append(&log, body);
    }
    (path, bodies.map(|body| body.as_bytes().to_vec()).to_vec())
}

/// Changes what is in the table, below the log's back.
fn tamper(path: &Path, change: impl FnOnce(&mut redb::Table<'_, u64, &[u8]>)) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&mut transaction.open_table(ENTRIES).unwrap());
    transaction.commit().unwrap();
}

fn stored(path: &Path, rev: u64) -> Vec<u8> {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_read().unwrap();
    let table = transaction.open_table(ENTRIES).unwrap();
    table.get(rev).unwrap().unwrap().value().to_vec()
}

#[test]
fn what_is_appended_is_there_again_and_only_we_can_read_it() {
    let folder = TempDir::new().unwrap();
    let (path, bodies) = three(&folder);
    let (log, entries) = open(&path).unwrap();
    assert_eq!((entries, log.epoch().unwrap().rev), (bodies, 4));
    assert_eq!(append(&log, "four"), log.epoch().unwrap());
    for file in [&path, &folder.path().join("control.redb.key")] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    assert!(matches!(log.append("revoke", &vec![0; MAX_BODY + 1]), Err(StateError::TooLarge)));
    let debug = format!("{log:?}");
    assert!(debug.contains("SigningKey") && !debug.contains("PRIVATE"), "{debug}");
}

#[test]
fn without_a_file_nothing_is_taken_unless_it_may_be_forgotten() {
    let (log, _) = Log::open(&State::default(), None).unwrap();
    assert_eq!((log.epoch(), log.is_durable()), (None, false));
    let error = log.append("revoke", b"x").unwrap_err();
    assert!(matches!(error, StateError::NotDurable) && error.to_string().contains("state.memory.file"));
    let volatile = State::Memory(MemoryState { file: None, volatile: true });
    let (log, _) = Log::open(&volatile, None).unwrap();
    assert_eq!((append(&log, "x").rev, append(&log, "y").rev, log.is_durable()), (1, 2, false));
    assert_eq!(log.catch_up().unwrap(), []);
}

#[test]
fn every_byte_of_the_file_s_entries_is_verified_at_the_start() {
    let folder = TempDir::new().unwrap();
    let (path, bodies) = three(&folder);
    for rev in 1..=4 {
        let sound = stored(&path, rev);
        for at in (0..sound.len()).step_by(if rev == 3 { 1 } else { 17 }) {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            tamper(&path, |table| drop(table.insert(rev, bytes.as_slice()).unwrap()));
            let error = open(&path).unwrap_err();
            let told = match &error {
                StateError::Broken { rev: broken, .. } => *broken == rev,
                StateError::OtherKey { .. } => true,
                _ => false,
            };
            assert!(told, "byte {at} of entry {rev}: {error}");
        }
        tamper(&path, |table| drop(table.insert(rev, sound.as_slice()).unwrap()));
    }
    assert_eq!(open(&path).unwrap().1, bodies);
    let third = stored(&path, 3);
    tamper(&path, |table| drop(table.remove(3).unwrap()));
    assert!(open(&path).unwrap_err().to_string().contains("broken at entry 3"));
    tamper(&path, |table| drop(table.insert(3, third.as_slice()).unwrap()));
    let fourth = stored(&path, 4);
    tamper(&path, |table| {
        table.insert(3, fourth.as_slice()).unwrap();
        table.insert(4, third.as_slice()).unwrap();
    });
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains("belongs elsewhere") && error.contains("restore a copy"), "{error}");
}

#[test]
fn a_log_and_its_key_belong_together() {
    let folder = TempDir::new().unwrap();
    let (path, bodies) = three(&folder);
    let key = folder.path().join("control.redb.key");
    let away = folder.path().join("away");
    fs::rename(&key, &away).unwrap();
    assert!(matches!(open(&path).unwrap_err(), StateError::KeyGone { .. }));
    let (log, entries) = Log::open(&config(&path), Some(&away)).unwrap();
    assert_eq!((entries.len(), append(&log, "four").rev), (3, 5), "the same key, named");
    fs::write(&key, SigningKey::make(&key).unwrap().1).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, StateError::OtherKey { .. }) && error.to_string().contains("put the key back"), "{error}");
    fs::rename(&away, &key).unwrap();
    fs::rename(&path, folder.path().join("log")).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, StateError::LogGone { .. }) && error.to_string().contains("forgets"), "{error}");
    // A crash between the key and the log's name.
    fs::rename(folder.path().join("log"), folder.path().join("control.redb.new")).unwrap();
    assert_eq!(open(&path).unwrap().1[..3], bodies);
    fs::write(&key, "nonsense").unwrap();
    assert!(matches!(open(&path).unwrap_err(), StateError::Key { .. }));
    fs::write(&path, "").unwrap();
    assert!(Log::open(&config(&path), None).is_err(), "an empty file is no new log");
}

#[test]
fn a_key_of_openssl_is_taken() {
    let folder = TempDir::new().unwrap();
    let key = folder.path().join("signing.pem");
    let made = Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&key).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no openssl here");
        return;
    }
    let path = folder.path().join("control.redb");
    let (log, _) = Log::open(&config(&path), Some(&key)).unwrap();
    append(&log, "one");
    assert_eq!(Log::open(&config(&path), Some(&key)).unwrap().1.len(), 1);
    assert!(!folder.path().join("control.redb.key").exists());
}

/// The process is killed at each step of an append: the file as it is then is one that a copy can be made of.
#[test]
fn a_kill_at_any_step_leaves_all_or_nothing_of_an_append() {
    let folder = TempDir::new().unwrap();
    let (path, bodies) = three(&folder);
    let key = SigningKey::read(&folder.path().join("control.redb.key")).unwrap();
    let mut head = entry::Head::new(Uuid::nil());
    (1..=4).for_each(|rev| drop(head.follow(&stored(&path, rev), &key).unwrap()));
    let (bytes, _) = head.next("revoke", b"four", &key);
    let snapshot = |name: &str| {
        let to = folder.path().join(name);
        fs::copy(&path, &to).unwrap();
        fs::copy(folder.path().join("control.redb.key"), folder.path().join(format!("{name}.key"))).unwrap();
        to
    };
    let database = Database::open(&path).unwrap();
    let opened = snapshot("opened");
    let transaction = database.begin_write().unwrap();
    transaction.open_table(ENTRIES).unwrap().insert(5, bytes.as_slice()).unwrap();
    let inserted = snapshot("inserted");
    transaction.commit().unwrap();
    let committed = snapshot("committed");
    // As in a process that is killed, nothing is closed.
    std::mem::forget(database);
    let with_four = [&bodies[..], &[b"four".to_vec()]].concat();
    for (copy, expected) in [(opened, &bodies), (inserted, &bodies), (committed, &with_four)] {
        let (log, entries) = open(&copy).unwrap();
        assert_eq!(entries, *expected, "{}", copy.display());
        append(&log, "after");
        assert_eq!(open(&copy).unwrap().1.len(), expected.len() + 1);
    }
}

#[test]
fn a_file_that_was_cut_is_never_a_shorter_log() {
    let folder = TempDir::new().unwrap();
    let (path, bodies) = three(&folder);
    let whole = fs::read(&path).unwrap();
    let cut = folder.path().join("cut");
    fs::copy(folder.path().join("control.redb.key"), folder.path().join("cut.key")).unwrap();
    let mut refused = 0;
    for length in (0..whole.len()).step_by(whole.len() / 97) {
        fs::write(&cut, &whole[..length]).unwrap();
        match open(&cut) {
            Ok((_, entries)) => assert_eq!(entries, bodies, "{length} of {} bytes", whole.len()),
            Err(error) => {
                refused += 1;
                assert!(matches!(error, StateError::Broken { .. } | StateError::Database { .. }), "{error}");
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn two_processes_share_a_log_while_one_takes_over() {
    let folder = TempDir::new().unwrap();
    let (path, _) = three(&folder);
    let (old, _) = open(&path).unwrap();
    let (new, _) = open(&path).unwrap();
    append(&new, "by the new one");
    let missed =
        |entries: Vec<Entry>| entries.into_iter().map(|entry| String::from_utf8(entry.body).unwrap()).collect::<Vec<_>>();
    match old.append("revoke", b"by the old one").unwrap() {
        Appended::Behind(entries) => assert_eq!(missed(entries), ["by the new one"]),
        Appended::Done(epoch) => panic!("{epoch:?}"),
    }
    assert_eq!(append(&old, "by the old one").rev, 6);
    assert_eq!(missed(new.catch_up().unwrap()), ["by the old one"]);
    assert_eq!((new.catch_up().unwrap(), new.epoch()), (Vec::new(), old.epoch()));

    // A copy from before is put in its place.
    let before = folder.path().join("before");
    fs::copy(&path, &before).unwrap();
    append(&new, "lost");
    fs::copy(&before, &path).unwrap();
    assert!(matches!(new.append("revoke", b"x").unwrap_err(), StateError::RolledBack { .. }));
    assert!(matches!(new.catch_up().unwrap_err(), StateError::RolledBack { .. }));
    assert_eq!(new.epoch().unwrap().rev, 7, "what was read stands");
}

/// Run by the next test in a process that may not write large files.
#[test]
#[ignore = "a part of another test"]
fn fills_up() {
    let folder = PathBuf::from(env::var_os("DOORWARD_TEST_FULL").unwrap());
    let path = folder.join("control.redb");
    let (log, _) = open(&path).unwrap();
    let body = vec![b'x'; MAX_BODY];
    let mut appended = 0;
    let error = loop {
        let before = log.epoch();
        match log.append("revoke", &body) {
            Ok(_) => appended += 1,
            Err(error) => {
                assert_eq!(log.epoch(), before, "a failed append changes nothing");
                break error;
            }
        }
        assert!(appended < 10_000);
    };
    assert!(matches!(error, StateError::Database { .. }), "{error:?}");
    fs::write(folder.join("appended"), appended.to_string()).unwrap();
}

#[test]
fn a_full_disk_refuses_an_append_and_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let (path, _) = three(&folder);
    // Writes beyond the limit fail as on a full disk, once the signal is ignored.
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 6000; exec \"$0\" --exact state::tests::fills_up --ignored"])
        .arg(env::current_exe().unwrap())
        .env("DOORWARD_TEST_FULL", folder.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    let appended: usize = fs::read_to_string(folder.path().join("appended")).unwrap().parse().unwrap();
    assert!(appended > 10, "{appended}");
    let (log, entries) = open(&path).unwrap();
    assert_eq!(entries.len(), 3 + appended);
    append(&log, "there is room again");
}
