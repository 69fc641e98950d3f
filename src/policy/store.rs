//! Files of `policy.cache`: written whole or not at all, and readable by us alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    process,
    sync::atomic::{AtomicU64, Ordering},
};

/// Replaces `folder/name` by `parts`, one after the other. After a crash there is the old file or the new one.
pub(super) fn write(folder: &Path, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let draft = folder.join(format!(".{name}.{}-{}", process::id(), WRITES.fetch_add(1, Ordering::Relaxed)));
    let written = draw_up(&draft, parts).and_then(|()| fs::rename(&draft, folder.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn draw_up(draft: &Path, parts: &[&[u8]]) -> io::Result<()> {
    // One of a process that had our number and crashed is in the way.
    let _ = fs::remove_file(draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}
