//! What was observed: `credentials`, who presented which first.

pub mod credentials;
