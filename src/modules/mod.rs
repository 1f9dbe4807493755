//! The modules, one file each. To add one see CONTRIBUTING.md; the numbers below are for ever.

crate::modules! {
    0 => module,
    1 => runqlat,
    2 => biolatency,
    3 => execsnoop,
    4 => netatop,
}
