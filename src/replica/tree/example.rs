//! Lvols for tests of what is told by them.

use uuid::Uuid;

use super::LvolFacts;
use crate::name::LvolName;
use crate::replica::attributes::Attributes;

/// An lvol without attributes or clusters of its own. Its identity follows from its name.
pub(in crate::replica) fn lvol(text: &str, parent: Option<&str>, is_snapshot: bool) -> LvolFacts {
    let name = |text: &str| LvolName::parse(text).expect("a name of an lvol");
    LvolFacts {
        lvol: name(text),
        uuid: Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()),
        size: 1 << 20,
        actual_size: 0,
        parent: parent.map(name),
        children: 0,
        is_snapshot,
        open: false,
        attributes: Attributes::default(),
    }
}
