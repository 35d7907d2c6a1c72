// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The object without DWARF. BTF, which the kernel and the loader read, stays.
//!
//! DWARF is five sixths of the object, nobody reads it, and it names compiler-made hashes of where the sources
//! were: without it the object is the same wherever it is built.

use anyhow::{Context, Result, ensure};
use object::build::elf::{Builder, SectionData};

pub(super) fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(object).context("bpf-linker did not make an ELF file")?;
    for section in &mut elf.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug") || name.starts_with(b".rel.debug");
    }
    let btf = elf.sections.iter().any(|section| section.name.as_slice() == b".BTF");
    ensure!(btf, "the object has no BTF");
    elf.delete_orphans();
    // LLVM keeps the names of sections and symbols in one table; the writer wants one for each.
    if !elf.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = elf.sections.add();
        names.name = ".shstrtab".into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    elf.write(&mut stripped).context("writing the object without DWARF")?;
    Ok(stripped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::build::elf::Section;
    use object::elf;

    fn add<'a>(builder: &'a mut Builder<'static>, name: &'static str, kind: u32) -> &'a mut Section<'static> {
        let section = builder.sections.add();
        section.name = name.into();
        section.sh_type = kind;
        section.sh_addralign = 1;
        section
    }

    /// An object with these sections, each holding its own name.
    fn object_with(sections: &[&'static str]) -> Vec<u8> {
        let mut builder = Builder::new(object::Endianness::Little, true);
        builder.header.e_type = elf::ET_REL;
        builder.header.e_machine = elf::EM_BPF;
        builder.header.e_phoff = 0;
        for name in sections {
            add(&mut builder, name, elf::SHT_PROGBITS).data = SectionData::Data(name.as_bytes().into());
        }
        add(&mut builder, ".shstrtab", elf::SHT_STRTAB).data = SectionData::SectionString;
        let mut object = Vec::new();
        builder.write(&mut object).unwrap();
        object
    }

    fn names(object: &[u8]) -> Vec<String> {
        let builder = Builder::read(object).unwrap();
        builder.sections.iter().map(|section| String::from_utf8_lossy(section.name.as_slice()).into_owned()).collect()
    }

    #[test]
    fn only_dwarf_is_taken_away() {
        let stripped = strip(&object_with(&[".text", ".BTF", ".debug_str", ".BTF.ext", ".rel.debug_info"])).unwrap();
        assert_eq!(names(&stripped), [".text", ".BTF", ".BTF.ext", ".shstrtab"]);
        assert_eq!(strip(&stripped).unwrap(), stripped, "stripping twice changes nothing");
    }

    #[test]
    fn what_is_no_object_or_has_no_btf_is_refused() {
        assert!(strip(b"not an object").is_err());
        assert!(strip(&object_with(&[".text", ".debug_str"])).is_err());
    }
}
