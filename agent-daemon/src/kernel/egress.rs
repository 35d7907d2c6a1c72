// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The maps by which the programs decide in governed trees, and the program that puts exec instances into trees and
//! classes.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_ebpf::{
    ClassRecord, ImageKey, ImageRecord, PlaceWords, TreeRecord, class, governing, limits, place_word, tree, verdict,
};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _};
use aya::{Ebpf, Pod};

use super::maps::{Maps, Raw, answer, failed, take};
use super::{Error, decode};
use crate::egress::{Changed, Class, Half, ImagePlace, Images, Place, Tables};
use crate::identity::{ImageRule, TreeSettings};
use crate::process::{self, Bound, Classified, ExecId, Stamp, Verdict};

#[expect(unsafe_code, reason = "aya asks for it, and the records live in a crate without aya")]
// SAFETY: a `repr(C)` array of integers without padding.
unsafe impl Pod for Raw<ClassRecord> {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above, with explicit padding.
unsafe impl Pod for Raw<TreeRecord> {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: a `repr(C)` struct of integers without padding.
unsafe impl Pod for Raw<ImageKey> {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above, with explicit padding.
unsafe impl Pod for Raw<ImageRecord> {}

/// Bits of port and protocol, which always count whole.
const PLACE_BITS: u32 = 32;
/// Bits in front of an IPv4 address in its v4-mapped form.
const MAPPED_BITS: u32 = 96;

type Addresses = LpmTrie<MapData, PlaceWords, u32>;

/// All maps of enforcement.
pub(super) struct EgressTables(Mutex<Inner>);

struct Inner {
    trees: Array<MapData, Raw<TreeRecord>>,
    governing: Array<MapData, u64>,
    classes: Array<MapData, Raw<ClassRecord>>,
    addresses: [Addresses; 2],
    images: HashMap<MapData, Raw<ImageKey>, Raw<ImageRecord>>,
    // Under the lock: two runs for one process would each undo what the other found out.
    binder: RawTracePoint,
}

impl fmt::Debug for EgressTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressTables").finish_non_exhaustive()
    }
}

impl EgressTables {
    pub(super) fn take(ebpf: &mut Ebpf, binder: RawTracePoint) -> Result<Self, Error> {
        Ok(Self(Mutex::new(Inner {
            trees: take(ebpf, "TREES")?,
            governing: take(ebpf, "GOVERNING")?,
            classes: take(ebpf, "CLASSES")?,
            addresses: [take(ebpf, "ADDRESSES_1")?, take(ebpf, "ADDRESSES_2")?],
            images: take(ebpf, "IMAGES")?,
            binder,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the program that writes into an exec instance's record.
    fn bind(&self, arguments: [u64; 5]) -> Result<Bound, process::Error> {
        let mut options = RawTracePointRunOptions::new();
        for (to, argument) in options.args.iter_mut().zip(arguments) {
            *to = argument;
        }
        let ran = self.lock().binder.test_run(options);
        let failed =
            |source| process::Error::Map { operation: "write", map: "PROCESSES", source: io::Error::other(source) };
        answer(ran.map_err(failed)?.return_value)
    }
}

impl Inner {
    fn addresses(&mut self, half: Half) -> &mut Addresses {
        let [first, second] = &mut self.addresses;
        match half {
            Half::First => first,
            Half::Second => second,
        }
    }
}

impl Tables for Maps {
    fn trees(&self) -> Result<Vec<(u32, u64, [TreeSettings; 2])>, process::Error> {
        let inner = self.egress().lock();
        let mut found = Vec::new();
        for place in 1..tree::LOST {
            let Raw(record) = inner.trees.get(&place, 0).map_err(|error| failed("read", "TREES", error))?;
            if record.tag != 0 {
                found.push((place, record.tag, record.settings.map(settings)));
            }
        }
        Ok(found)
    }

    fn set_tree(&self, place: u32, tag: u64, settings: [TreeSettings; 2]) -> Result<(), process::Error> {
        let record = TreeRecord { tag, settings: settings.map(word) };
        let mut inner = self.egress().lock();
        inner.trees.set(place, Raw(record), 0).map_err(|error| failed("write", "TREES", error))?;
        inner.governing.set(governing::ANY, 1, 0).map_err(|error| failed("write", "GOVERNING", error))
    }

    fn is_anybody_lost(&self) -> Result<bool, process::Error> {
        let lost = self.egress().lock().governing.get(&governing::LOST, 0);
        Ok(lost.map_err(|error| failed("read", "GOVERNING", error))? != 0)
    }

    fn half(&self) -> Result<Half, process::Error> {
        let half = self.egress().lock().governing.get(&governing::HALF, 0);
        Ok(if half.map_err(|error| failed("read", "GOVERNING", error))? == 0 { Half::First } else { Half::Second })
    }

    fn use_half(&self, half: Half) -> Result<(), process::Error> {
        let set = self.egress().lock().governing.set(governing::HALF, u64::from(half == Half::Second), 0);
        set.map_err(|error| failed("write", "GOVERNING", error))
    }

    fn void(&self, half: Half, before: Stamp) -> Result<(), process::Error> {
        let element = *half.of(&[governing::OLDEST, governing::OLDEST + 1]);
        let set = self.egress().lock().governing.set(element, before.0, 0);
        set.map_err(|error| failed("write", "GOVERNING", error))
    }

    fn clear(&self, half: Half) -> Result<(), process::Error> {
        let mut inner = self.egress().lock();
        let addresses = inner.addresses(half);
        // Keys are removed while they are walked, so the walk begins anew until nothing is left.
        while let Some(key) = addresses.keys().next() {
            let key = key.map_err(|error| failed("walk", "ADDRESSES", error))?;
            match addresses.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed("write", "ADDRESSES", error)),
            }
        }
        Ok(())
    }

    fn put(&self, half: Half, place: &Place, group: u32) -> Result<(), process::Error> {
        let put = self.egress().lock().addresses(half).insert(&key(place), group, 0);
        put.map_err(|error| failed("write", "ADDRESSES", error))
    }

    fn remove(&self, half: Half, place: &Place) -> Result<(), process::Error> {
        match self.egress().lock().addresses(half).remove(&key(place)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(failed("write", "ADDRESSES", error)),
        }
    }

    fn set_class(&self, class: Class, verdicts: &[Verdict]) -> Result<(), process::Error> {
        let mut record = ClassRecord { verdicts: [0; 64] };
        for (word, verdicts) in record.verdicts.iter_mut().zip(verdicts.chunks(32)) {
            *word = verdicts.iter().rev().fold(0, |word, one| word << 2 | u64::from(code(*one)));
        }
        let set = self.egress().lock().classes.set(class.in_record(), Raw(record), 0);
        set.map_err(|error| failed("write", "CLASSES", error))
    }

    fn images(&self) -> Result<Images, process::Error> {
        let inner = self.egress().lock();
        let mut found = Images::new();
        for entry in inner.images.iter() {
            match entry {
                Ok((Raw(key), Raw(record))) => {
                    let place = ImagePlace { tree: key.tree, device: decode::device(key.dev), inode: key.inode };
                    found.insert(place, Changed { seconds: record.ctime_sec, nanoseconds: record.ctime_nsec });
                }
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed("walk", "IMAGES", error)),
            }
        }
        Ok(found)
    }

    fn put_image(&self, place: ImagePlace, changed: Changed) -> Result<(), process::Error> {
        let record = ImageRecord { ctime_sec: changed.seconds, ctime_nsec: changed.nanoseconds, padding: 0 };
        let put = self.egress().lock().images.insert(image_key(place), Raw(record), 0);
        put.map_err(|error| failed("write", "IMAGES", error))
    }

    fn remove_image(&self, place: ImagePlace) -> Result<(), process::Error> {
        match self.egress().lock().images.remove(&image_key(place)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(failed("write", "IMAGES", error)),
        }
    }

    fn plant(&self, tgid: u32, exec_id: ExecId, tree: u32) -> Result<Bound, process::Error> {
        self.egress().bind([u64::from(tgid), exec_id.0, u64::from(tree), 0, 0])
    }

    fn classify(&self, tgid: u32, exec_id: ExecId, word: Classified) -> Result<Bound, process::Error> {
        let class = word.stamp.0 << class::STAMP_SHIFT | u64::from(word.place);
        let (euid, egid) = word.ids;
        self.egress().bind([u64::from(tgid), exec_id.0, 0, class, u64::from(euid) << 32 | u64::from(egid)])
    }
}

fn code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allow => verdict::ALLOW,
        Verdict::Audit => verdict::AUDIT,
        Verdict::Deny => verdict::DENY,
    }
}

fn image_key(place: ImagePlace) -> Raw<ImageKey> {
    let (major, minor) = place.device;
    Raw(ImageKey { inode: place.inode, dev: major << 20 | minor & 0xf_ffff, tree: place.tree })
}

fn word(settings: TreeSettings) -> u32 {
    let audit = if settings.is_audit { tree::AUDIT } else { 0 };
    let images = match settings.images {
        ImageRule::Any => 0,
        ImageRule::Listed => tree::IMAGES,
        ImageRule::Audited => tree::IMAGES | tree::IMAGES_AUDIT,
    };
    audit
        | images
        | u32::from(code(settings.pending)) << tree::PENDING_SHIFT
        | u32::from(code(settings.undeclared)) << tree::UNDECLARED_SHIFT
}

fn settings(word: u32) -> TreeSettings {
    let verdict = |shift: u32| match u8::try_from(word >> shift & 3) {
        Ok(verdict::ALLOW) => Verdict::Allow,
        Ok(verdict::AUDIT) => Verdict::Audit,
        Ok(_) | Err(_) => Verdict::Deny,
    };
    TreeSettings {
        is_audit: word & tree::AUDIT != 0,
        pending: verdict(tree::PENDING_SHIFT),
        undeclared: verdict(tree::UNDECLARED_SHIFT),
        images: match (word & tree::IMAGES != 0, word & tree::IMAGES_AUDIT != 0) {
            (false, _) => ImageRule::Any,
            (true, false) => ImageRule::Listed,
            (true, true) => ImageRule::Audited,
        },
    }
}

fn key(place: &Place) -> Key<PlaceWords> {
    let (octets, before) = match place.network.address() {
        IpAddr::V4(address) => (address.to_ipv6_mapped().octets(), MAPPED_BITS),
        IpAddr::V6(address) => (address.octets(), 0),
    };
    let [a, b, c, d]: [u32; 4] = zerocopy::transmute!(octets);
    let bits = PLACE_BITS.saturating_add(before).saturating_add(u32::from(place.network.prefix()));
    let is_v4 = before != 0;
    Key::new(bits, [place_word(place.protocol.0, place.port, is_v4), a, b, c, d])
}

const _: () = assert!(limits::GROUPS == 64 * 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_were_written() {
        for pending in [Verdict::Allow, Verdict::Audit, Verdict::Deny] {
            for undeclared in [Verdict::Allow, Verdict::Audit, Verdict::Deny] {
                for is_audit in [false, true] {
                    for images in [ImageRule::Any, ImageRule::Listed, ImageRule::Audited] {
                        let given = TreeSettings { is_audit, pending, undeclared, images };
                        assert_eq!(settings(word(given)), given);
                    }
                }
            }
        }
        assert_eq!(word(TreeSettings::STRICTEST), 0);
    }
}
