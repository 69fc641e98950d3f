//! What is compiled once and used again by the same thread: patterns of `regex` and `glob`. A policy's own patterns are
//! few, those that it makes from requests are many, so each thread keeps a bounded number.

use std::{cell::RefCell, collections::HashMap, hash::Hash, rc::Rc, thread::LocalKey};

/// Patterns that a thread keeps of each kind. When they are more, all are dropped: that is rare, and bounds them.
const KEPT: usize = 256;

pub(super) type Cache<K, V> = RefCell<HashMap<K, Rc<V>, foldhash::fast::RandomState>>;

/// The value for a key, made when it is not there. `find` asks with a borrowed key.
pub(super) fn cached<K, Q, V, E>(
    cache: &'static LocalKey<Cache<K, V>>,
    key: &Q,
    make: impl FnOnce() -> Result<V, E>,
) -> Result<Rc<V>, E>
where
    K: Hash + Eq + std::borrow::Borrow<Q> + for<'q> From<&'q Q>,
    Q: Hash + Eq + ?Sized,
{
    if let Some(found) = cache.with_borrow(|cache| cache.get(key).map(Rc::clone)) {
        return Ok(found);
    }
    let made = Rc::new(make()?);
    cache.with_borrow_mut(|cache| {
        if cache.len() >= KEPT {
            cache.clear();
        }
        cache.insert(K::from(key), Rc::clone(&made));
    });
    Ok(made)
}
