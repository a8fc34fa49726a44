//! Raw FFI to SPDK through the C shim in `shim/`.
