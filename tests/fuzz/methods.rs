//! Every call of both services, from the compiled descriptors.

use corriente::wire::FILE_DESCRIPTOR_SET;
use prost_reflect::{DescriptorPool, MessageDescriptor};

/// One call.
pub struct Method {
    /// `/package.Service/Method`.
    pub path: String,
    pub input: MessageDescriptor,
    pub streams: bool,
}

pub fn all() -> Vec<Method> {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("our own descriptors");
    let methods = pool.services().flat_map(|service| {
        let methods: Vec<_> = service.methods().collect();
        methods.into_iter().map(move |method| Method {
            path: format!("/{}/{}", service.full_name(), method.name()),
            input: method.input(),
            streams: method.is_server_streaming(),
        })
    });
    methods.collect()
}
