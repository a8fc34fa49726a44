//! What a device carries that is not ours to overwrite: signatures of partition tables, file systems and other stores.

/// How much of a device's start is looked at: it reaches past the deepest signature below.
pub const PROBE_LENGTH: usize = 1 << 20;

/// A byte string at a fixed place that says what a device carries.
struct Signature {
    kind: &'static str,
    offset: usize,
    bytes: &'static [u8],
}

const fn signature(kind: &'static str, offset: usize, bytes: &'static [u8]) -> Signature {
    Signature { kind, offset, bytes }
}

/// The more telling first: a disk with a GPT also has the mark of an MBR.
const SIGNATURES: &[Signature] = &[
    signature("an lvstore of SPDK that does not load", 0, b"SPDKBLOB"),
    signature("a GPT partition table", 512, b"EFI PART"),
    signature("a GPT partition table", 4096, b"EFI PART"),
    signature("a LUKS volume", 0, b"LUKS\xba\xbe"),
    signature("an XFS file system", 0, b"XFSB"),
    signature("an ext2, ext3 or ext4 file system", 1024 + 56, b"\x53\xef"),
    signature("a Btrfs file system", 0x1_0000 + 64, b"_BHRfS_M"),
    signature("an LVM physical volume", 0, b"LABELONE"),
    signature("an LVM physical volume", 512, b"LABELONE"),
    signature("an LVM physical volume", 1024, b"LABELONE"),
    signature("an LVM physical volume", 1536, b"LABELONE"),
    signature("a member of a Linux RAID", 0, b"\xfc\x4e\x2b\xa9"),
    signature("a member of a Linux RAID", 4096, b"\xfc\x4e\x2b\xa9"),
    signature("swap space", 4096 - 10, b"SWAPSPACE2"),
    signature("swap space", 4096 - 10, b"SWAP-SPACE"),
    signature("an F2FS file system", 1024, b"\x10\x20\xf5\xf2"),
    signature("a bcache device", 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    signature("a ZFS pool", 128 << 10, b"\x0c\xb1\xba\x00\x00\x00\x00\x00"),
    signature("a Ceph BlueStore device", 0, b"bluestore block device"),
    signature("an ISO 9660 image", 0x8001, b"CD001"),
    signature("a SquashFS image", 0, b"hsqs"),
    signature("a qcow2 image", 0, b"QFI\xfb"),
    signature("a VMDK image", 0, b"KDMV"),
    signature("an NTFS file system", 3, b"NTFS    "),
    signature("an exFAT file system", 3, b"EXFAT   "),
    signature("an MBR partition table or a FAT file system", 510, b"\x55\xaa"),
];

/// What the start of a device says that it carries.
pub fn find(start: &[u8]) -> Option<&'static str> {
    let is_there = |signature: &&Signature| {
        start.get(signature.offset..signature.offset + signature.bytes.len()) == Some(signature.bytes)
    };
    SIGNATURES.iter().find(is_there).map(|signature| signature.kind)
}

/// Whether there is nothing but zeroes.
pub fn is_blank(start: &[u8]) -> bool {
    start.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with(offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut disk = vec![0; PROBE_LENGTH];
        disk[offset..offset + bytes.len()].copy_from_slice(bytes);
        disk
    }

    #[test]
    fn every_signature_is_found_at_its_place_and_only_there() {
        for known in SIGNATURES {
            assert!(known.offset + known.bytes.len() <= PROBE_LENGTH, "{} lies beyond the probe", known.kind);
            assert_eq!(find(&disk_with(known.offset, known.bytes)), Some(known.kind));
            let elsewhere = disk_with(PROBE_LENGTH / 2 + known.offset, known.bytes);
            assert_eq!(find(&elsewhere), None, "{}", known.kind);
            assert!(!is_blank(&elsewhere));
        }
    }

    #[test]
    fn a_gpt_is_named_before_its_protective_mbr() {
        let mut disk = disk_with(510, b"\x55\xaa");
        disk[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(find(&disk), Some("a GPT partition table"));
    }

    #[test]
    fn zeroes_and_short_devices_carry_nothing() {
        assert_eq!(find(&[0; 4096]), None);
        assert_eq!(find(&[]), None);
        assert!(is_blank(&vec![0; PROBE_LENGTH]));
    }
}
