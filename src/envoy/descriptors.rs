//! The descriptors of gRPC messages, `policy.proto_descriptor`: read as a whole, then put in force. What is refused
//! displaces nothing. When to read is the composer's business, what they are used for `decode/body/grpc`'s.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;
use prost_reflect::{DescriptorError, DescriptorPool};

/// Largest descriptor file, in bytes.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Why descriptors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorsError {
    #[error("cannot read `{}` (`policy.proto_descriptor`)", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` (`policy.proto_descriptor`) is larger than {MAX_FILE} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error(
        "`{}` (`policy.proto_descriptor`) is no FileDescriptorSet; make one with `protoc --include_imports \
         --descriptor_set_out=FILE`",
        path.display()
    )]
    Invalid {
        path: PathBuf,
        #[source]
        source: DescriptorError,
    },
}

/// What came of a look at the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Unchanged,
    Changed,
}

/// Holds the descriptors in force, or none.
#[derive(Debug, Default)]
pub struct Descriptors {
    current: ArcSwapOption<DescriptorPool>,
    /// The bytes that they were made of, held while a reload works.
    source: Mutex<Option<Vec<u8>>>,
}

impl Descriptors {
    /// Those in force now; a call takes them once.
    pub fn current(&self) -> Option<Arc<DescriptorPool>> {
        self.current.load_full()
    }

    /// Reads the file again and puts it in force if it is new and sound; without a file there are no descriptors.
    pub fn reload(&self, path: Option<&Path>) -> Result<Look, DescriptorsError> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let new = path.map(read).transpose()?;
        if *source == new {
            return Ok(Look::Unchanged);
        }
        let pool = match (path, &new) {
            (Some(path), Some(bytes)) => {
                let pool = DescriptorPool::decode(bytes.as_slice());
                Some(Arc::new(pool.map_err(|source| DescriptorsError::Invalid { path: path.to_owned(), source })?))
            }
            _ => None,
        };
        self.current.store(pool);
        *source = new;
        Ok(Look::Changed)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, DescriptorsError> {
    let failed = |source| DescriptorsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= MAX_FILE => Ok(bytes),
        _ => Err(DescriptorsError::TooLarge { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::envoy::decode::descriptors_of_tests;

    #[test]
    fn what_is_refused_displaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shop.pb");
        let known = |store: &Descriptors| store.current().is_some_and(|pool| pool.get_service_by_name("shop.Orders").is_some());
        let store = Descriptors::default();
        assert_eq!(store.reload(None).unwrap(), Look::Unchanged);
        assert!(matches!(store.reload(Some(&file)), Err(DescriptorsError::Read { .. })));
        assert!(!known(&store));
        fs::write(&file, descriptors_of_tests()).unwrap();
        assert_eq!(store.reload(Some(&file)).unwrap(), Look::Changed);
        assert_eq!(store.reload(Some(&file)).unwrap(), Look::Unchanged);
        assert!(known(&store));
        fs::write(&file, b"\x0a\x03abc").unwrap();
        let error = store.reload(Some(&file)).unwrap_err();
        assert!(matches!(error, DescriptorsError::Invalid { .. }) && error.to_string().contains("--include_imports"));
        assert!(known(&store));
        assert_eq!(store.reload(None).unwrap(), Look::Changed);
        assert!(!known(&store));
    }

    #[test]
    fn a_set_without_its_imports_is_refused() {
        use prost::Message as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shop.pb");
        let mut set = prost_types::FileDescriptorSet::decode(descriptors_of_tests().as_slice()).unwrap();
        set.file.retain(|file| file.name() == "shop.proto");
        fs::write(&file, set.encode_to_vec()).unwrap();
        assert!(matches!(Descriptors::default().reload(Some(&file)), Err(DescriptorsError::Invalid { .. })));
    }
}
