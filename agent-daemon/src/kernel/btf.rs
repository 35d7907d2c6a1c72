// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reads member offsets from BTF: what CO-RE would do for us if Rust programs had it.
//!
//! Little-endian, kinds 1 to 19 (`Documentation/bpf/btf.rst`). An unknown kind is an error, because the
//! length of what follows is then unknown. Anonymous structs and unions are searched through.

use std::collections::HashMap;

/// BTF that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Not BTF, or cut short.
    #[error("the BTF data ends early or is malformed at byte {at}")]
    Malformed {
        /// Byte offset.
        at: usize,
    },
    /// A kind this reader does not know.
    #[error("BTF type kind {kind} is unknown")]
    UnknownKind {
        /// The kind.
        kind: u32,
    },
    /// The kernel has no such structure.
    #[error("the kernel has no structure {structure}")]
    NoStructure {
        /// Its name.
        structure: String,
    },
    /// The structure has no such member.
    #[error("the kernel's structure {structure} has no member {member}")]
    NoMember {
        /// Its name.
        structure: String,
        /// All paths that were tried.
        member: String,
    },
    /// The member does not start at a byte.
    #[error("member {member} of {structure} is a bit field")]
    BitField {
        /// Its name.
        structure: String,
        /// The path.
        member: String,
    },
}

const MAGIC: u16 = 0xeb9f;
const TYPE_HEADER: usize = 12;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// Nested anonymous members and modifiers to follow before giving up.
const DEPTH: u32 = 16;

/// Parsed as far as offsets need it.
pub(super) struct Btf<'a> {
    data: &'a [u8],
    strings: &'a [u8],
    /// Byte offset of each type in `data`; ids start at 1.
    types: Vec<usize>,
    structures: HashMap<&'a [u8], Vec<u32>>,
}

impl<'a> Btf<'a> {
    /// Reads the type section once and remembers the structures that are asked for.
    ///
    /// # Errors
    /// When the data is not BTF of a known form.
    pub(super) fn parse(data: &'a [u8], wanted: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        if u16_at(data, 0)? != MAGIC {
            return Err(Error::Malformed { at: 0 });
        }
        let header = size(u32_at(data, 4)?);
        let section = |offset_at, length_at| -> Result<(usize, usize), Error> {
            let start = header.saturating_add(size(u32_at(data, offset_at)?));
            Ok((start, start.saturating_add(size(u32_at(data, length_at)?))))
        };
        let (types_start, types_end) = section(8, 12)?;
        let (strings_start, strings_end) = section(16, 20)?;
        let strings = data.get(strings_start..strings_end).ok_or(Error::Malformed { at: strings_start })?;
        let structures: HashMap<_, _> = wanted.into_iter().map(|name| (name.as_bytes(), Vec::new())).collect();
        let mut btf = Self { data, strings, types: vec![0], structures };
        let mut at = types_start;
        while at < types_end {
            let (kind, count) = btf.kind(at)?;
            if kind == STRUCT {
                let name = btf.name(u32_at(data, at)?)?;
                let id = u32::try_from(btf.types.len()).map_err(|_| Error::Malformed { at })?;
                if let Some(ids) = btf.structures.get_mut(name) {
                    ids.push(id);
                }
            }
            btf.types.push(at);
            at = at.saturating_add(TYPE_HEADER).saturating_add(trailer(kind, count)?);
        }
        Ok(btf)
    }

    /// The byte offset of a member, given by its path (`a.b.c`); the first of `paths` that exists.
    ///
    /// # Errors
    /// When the structure or all of the paths are missing, or the member is a bit field.
    pub(super) fn offset(&self, structure: &str, paths: &[&str]) -> Result<u32, Error> {
        let ids = self.structures.get(structure.as_bytes()).map(Vec::as_slice).unwrap_or_default();
        if ids.is_empty() {
            return Err(Error::NoStructure { structure: structure.to_owned() });
        }
        for path in paths {
            for id in ids {
                if let Some(bits) = self.path(*id, path)? {
                    return if bits % 8 == 0 {
                        Ok(bits / 8)
                    } else {
                        Err(Error::BitField { structure: structure.to_owned(), member: (*path).to_owned() })
                    };
                }
            }
        }
        Err(Error::NoMember { structure: structure.to_owned(), member: paths.join(" or ") })
    }

    fn path(&self, id: u32, path: &str) -> Result<Option<u32>, Error> {
        let mut id = id;
        let mut bits: u32 = 0;
        for name in path.split('.') {
            match self.member(id, name.as_bytes(), DEPTH)? {
                Some((offset, of)) => {
                    bits = bits.saturating_add(offset);
                    id = of;
                }
                None => return Ok(None),
            }
        }
        Ok(Some(bits))
    }

    /// Bit offset and type of a member of a struct or union, searched through anonymous ones.
    fn member(&self, id: u32, name: &[u8], depth: u32) -> Result<Option<(u32, u32)>, Error> {
        let Some(at) = self.resolve(id)? else { return Ok(None) };
        let (kind, count) = self.kind(at)?;
        if (kind != STRUCT && kind != UNION) || depth == 0 {
            return Ok(None);
        }
        let has_bit_fields = u32_at(self.data, at + 4)? >> 31 == 1;
        for index in 0..count {
            let member = at + TYPE_HEADER + index * 12;
            let raw = u32_at(self.data, member + 8)?;
            let offset = if has_bit_fields { raw & 0x00ff_ffff } else { raw };
            let of = u32_at(self.data, member + 4)?;
            let name_offset = u32_at(self.data, member)?;
            if name_offset == 0 {
                if let Some((inner, of)) = self.member(of, name, depth - 1)? {
                    return Ok(Some((offset.saturating_add(inner), of)));
                }
            } else if self.name(name_offset)? == name {
                return Ok(Some((offset, of)));
            }
        }
        Ok(None)
    }

    /// Follows typedefs and qualifiers to a type's place in the data.
    fn resolve(&self, id: u32) -> Result<Option<usize>, Error> {
        let mut id = id;
        for _ in 0..DEPTH {
            let Some(&at) = self.types.get(size(id)).filter(|_| id != 0) else { return Ok(None) };
            match self.kind(at)?.0 {
                8..=11 | 18 => id = u32_at(self.data, at + 8)?,
                _ => return Ok(Some(at)),
            }
        }
        Ok(None)
    }

    fn kind(&self, at: usize) -> Result<(u32, usize), Error> {
        let info = u32_at(self.data, at.saturating_add(4))?;
        Ok((info >> 24 & 0x1f, size(info & 0xffff)))
    }

    fn name(&self, offset: u32) -> Result<&'a [u8], Error> {
        let rest = self.strings.get(size(offset)..).ok_or(Error::Malformed { at: size(offset) })?;
        let end = rest.iter().position(|byte| *byte == 0).ok_or(Error::Malformed { at: size(offset) })?;
        Ok(rest.get(..end).unwrap_or_default())
    }
}

/// Bytes after a type's header.
fn trailer(kind: u32, count: usize) -> Result<usize, Error> {
    Ok(match kind {
        1 | 14 | 17 => 4,
        2 | 7..=12 | 16 | 18 => 0,
        3 => 12,
        4 | 5 | 15 | 19 => count * 12,
        6 | 13 => count * 8,
        kind => return Err(Error::UnknownKind { kind }),
    })
}

fn size(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn u16_at(data: &[u8], at: usize) -> Result<u16, Error> {
    bytes(data, at).map(u16::from_le_bytes)
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, Error> {
    bytes(data, at).map(u32::from_le_bytes)
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Result<[u8; N], Error> {
    at.checked_add(N)
        .and_then(|end| data.get(at..end))
        .and_then(|slice| slice.try_into().ok())
        .ok_or(Error::Malformed { at })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two structures: `inner { u32 x; anonymous union { u64 y } }` and `outer { u32 a; inner b; bit field c }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0inner\0x\0y\0outer\0a\0b\0c\0int\0";
        let name = |text: &[u8]| {
            let mut needle = vec![0];
            needle.extend_from_slice(text);
            needle.push(0);
            u32::try_from(strings.windows(needle.len()).position(|w| w == needle).unwrap() + 1).unwrap()
        };
        let mut types: Vec<u32> = Vec::new();
        types.extend([name(b"int"), 1 << 24, 4, 32]); // 1: int
        types.extend([0, 5 << 24 | 1, 8, name(b"y"), 1, 0]); // 2: anonymous union
        types.extend([name(b"inner"), 4 << 24 | 2, 16, name(b"x"), 1, 0, 0, 2, 64]); // 3: inner
        types.extend([0, 10 << 24, 3]); // 4: const inner
        let flagged = 1 << 31 | 4 << 24 | 3;
        types.extend([name(b"outer"), flagged, 40, name(b"a"), 1, 0, name(b"b"), 4, 64, name(b"c"), 1, 3 << 24 | 197]);
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_le_bytes).collect();
        let mut data = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types.len(), types.len(), strings.len()] {
            data.extend(u32::try_from(word).unwrap().to_le_bytes());
        }
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn members_are_found_through_qualifiers_and_anonymous_unions() {
        let data = sample();
        let btf = Btf::parse(&data, ["inner", "outer", "absent"]).unwrap();
        for (structure, paths, expected) in [
            ("inner", vec!["x"], Ok(0)),
            ("inner", vec!["y"], Ok(8)),
            ("outer", vec!["b.y"], Ok(16)),
            ("outer", vec!["nothing", "b.x"], Ok(8)),
            ("outer", vec!["c"], Err(Error::BitField { structure: "outer".into(), member: "c".into() })),
            ("outer", vec!["d", "e"], Err(Error::NoMember { structure: "outer".into(), member: "d or e".into() })),
            ("absent", vec!["x"], Err(Error::NoStructure { structure: "absent".into() })),
        ] {
            assert_eq!(btf.offset(structure, &paths), expected, "{structure} {paths:?}");
        }
    }

    #[test]
    fn every_prefix_of_good_data_is_refused_or_read_without_panic() {
        let data = sample();
        for length in 0..data.len() {
            if let Ok(btf) = Btf::parse(&data[..length], ["inner", "outer"]) {
                drop(btf.offset("outer", &["b.y"]));
            }
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(at in 0usize..200, value: u8) {
            let mut data = sample();
            let at = at % data.len();
            data[at] = value;
            if let Ok(btf) = Btf::parse(&data, ["inner", "outer"]) {
                drop(btf.offset("outer", &["b.y"]));
                drop(btf.offset("inner", &["y"]));
            }
        }
    }
}
