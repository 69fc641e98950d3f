//! How much of a list is asked for at a time.

use tonic::Status;

/// Items of a page, where the caller says nothing, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// Items of the page.
pub fn size(page_size: i32) -> Result<usize, Status> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE),
        Ok(size) => Ok(size.min(MAX_PAGE)),
        Err(_) => Err(Status::invalid_argument("`page_size` is below zero")),
    }
}

/// The number in the control log that a page comes after.
pub fn after(page_token: &str) -> Result<u64, Status> {
    match page_token {
        "" => Ok(0),
        token => token.parse().map_err(|_| foreign()),
    }
}

/// For a token that no answer of ours had.
pub fn foreign() -> Status {
    Status::invalid_argument("`page_token` is none of ours")
}

/// Where an answer of one item too many says that there is another page: that item goes, and the name of the last is what the
/// next page comes after.
pub fn cut<T>(items: &mut Vec<T>, size: usize, name: impl Fn(&T) -> String) -> String {
    let more = items.len() > size;
    items.truncate(size);
    items.last().filter(|_| more).map(name).unwrap_or_default()
}
