//! Who the kernel says it is: the host's NQN and ID, which belong together.

use std::path::Path;

use uuid::Uuid;

use crate::name::Nqn;

/// The identity of this host towards NVMe targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostIdentity {
    /// The host's NQN.
    pub nqn: Nqn,
    /// The host's ID.
    pub id: Uuid,
}

impl HostIdentity {
    /// The one that derives from a machine's UUID, as nvme-cli makes it.
    pub fn of_uuid(id: Uuid) -> Self {
        let nqn = Nqn::parse(&format!("nqn.2014-08.org.nvmexpress:uuid:{id}"));
        Self { nqn: nqn.expect("a fixed prefix and a UUID make an NQN"), id }
    }

    /// The host's own: the pair in `etc_nvme`, else what derives from the machine's UUID. `None` when there is neither; the
    /// kernel then makes one up until its next boot. Half a pair is not used: a kernel refuses one that does not match.
    pub fn find(etc_nvme: &Path, sysfs: &Path) -> Option<Self> {
        let text = |path: &Path| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let nqn = text(&etc_nvme.join("hostnqn")).and_then(|nqn| Nqn::parse(&nqn).ok());
        let id = text(&etc_nvme.join("hostid")).and_then(|id| Uuid::parse_str(&id).ok());
        if let (Some(nqn), Some(id)) = (nqn, id) {
            return Some(Self { nqn, id });
        }
        let machine = text(&sysfs.join("class/dmi/id/product_uuid"))?;
        Uuid::parse_str(&machine).ok().filter(|id| !id.is_nil()).map(Self::of_uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "4C4C4544-0042-3010-8056-B7C04F4D3333";

    #[test]
    fn a_whole_pair_is_used_and_half_a_pair_is_not() {
        let root = tempfile::tempdir().unwrap();
        let (etc, sysfs) = (root.path().join("etc"), root.path().join("sys"));
        let write = |path: &Path, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(HostIdentity::find(&etc, &sysfs), None);
        write(&sysfs.join("class/dmi/id/product_uuid"), &format!("{MACHINE}\n"));
        let machine = HostIdentity::of_uuid(MACHINE.parse().unwrap());
        assert_eq!(HostIdentity::find(&etc, &sysfs), Some(machine.clone()));
        write(&etc.join("hostnqn"), "nqn.2014-08.org.example:host-1\n");
        assert_eq!(HostIdentity::find(&etc, &sysfs), Some(machine));
        write(&etc.join("hostid"), "a9d1f1cb-6f9a-4f9c-8d5b-0d6d3c7e2f10\n");
        let found = HostIdentity::find(&etc, &sysfs).unwrap();
        assert_eq!(found.nqn.as_str(), "nqn.2014-08.org.example:host-1");
        assert_eq!(found.id.to_string(), "a9d1f1cb-6f9a-4f9c-8d5b-0d6d3c7e2f10");
    }
}
