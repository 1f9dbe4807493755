//! Where values come from: one way of reading per shape of data.

mod mapped;

pub use mapped::Key;
pub use mapped::Mapped;
pub use mapped::Reader;
