//! Raw FFI to SPDK: the C shim in `shim/` and the few SPDK functions whose prototype never changed.
//!
//! No logic lives here. The shim's header `shim/cs.h` states the contract of every `cs_*` function; SPDK's own
//! headers state that of every `spdk_*` function. The safe layer is `corriente::spdk`.
#![allow(non_camel_case_types, non_upper_case_globals, non_snake_case)]
#![allow(clippy::missing_safety_doc, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
