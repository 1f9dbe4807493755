//! Opening, loading and attaching BPF objects, and what is left of them afterwards: links,
//! programs and mapped memory.

mod btf;
mod fd;
mod kernel;
mod layout;
mod load;
mod memory;
mod messages;
mod needs;
mod part;
mod program;
mod ring;
mod target;
mod tracepoint;
mod trim;

pub use fd::HighDescriptors;
pub use fd::keep;
pub use kernel::Kernel;
pub use layout::Field;
pub use layout::Layout;
pub use load::Loaded;
pub use load::Unavailable;
pub use load::load;
pub use memory::Memory;
pub use program::RunStats;
pub use ring::Ring;
pub use tracepoint::Tracepoints;
