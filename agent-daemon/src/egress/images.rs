// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The files that may be executed in governed trees.

use std::collections::HashMap;

use super::Tables;
use crate::process::Error;

/// A file in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImagePlace {
    /// The place of the tree.
    pub tree: u32,
    /// Of the file's superblock, major and minor.
    pub device: (u32, u32),
    /// Its number.
    pub inode: u64,
}

/// When a file changed last: its content, its owner or its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Since the epoch.
    pub seconds: i64,
    /// Beyond them.
    pub nanoseconds: u32,
}

/// All of them: a file is one of these only as long as it is unchanged.
pub type Images = HashMap<ImagePlace, Changed>;

/// Has the kernel's table say what is wanted. What is new comes before anything goes; where there is no room for all, what
/// was new is taken back, and the table is as it was.
///
/// # Errors
/// When the table cannot be written.
pub fn update(tables: &dyn Tables, held: &mut Images, wanted: Images) -> Result<(), Error> {
    let mut put = Vec::new();
    for (place, changed) in wanted.iter().filter(|(place, changed)| held.get(place) != Some(changed)) {
        if let Err(error) = tables.put_image(*place, *changed) {
            for place in put {
                match held.get(&place) {
                    Some(before) => tables.put_image(place, *before)?,
                    None => tables.remove_image(place)?,
                }
            }
            return Err(error);
        }
        put.push(*place);
    }
    for place in held.keys().filter(|place| !wanted.contains_key(place)) {
        tables.remove_image(*place)?;
    }
    *held = wanted;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Call, FakeKernel, Fault, Sizes};

    fn images(of: &[(u64, i64)]) -> Images {
        let place = |inode| ImagePlace { tree: 1, device: (8, 1), inode };
        of.iter().map(|(inode, seconds)| (place(*inode), Changed { seconds: *seconds, nanoseconds: 0 })).collect()
    }

    #[test]
    fn the_table_says_what_is_wanted_or_is_as_it_was() {
        let kernel = FakeKernel::new(Sizes::default());
        let mut held = Images::new();
        update(&kernel, &mut held, images(&[(1, 10), (2, 10), (3, 10)])).unwrap();
        assert_eq!(kernel.images().unwrap(), held);
        // One is another by now, one is new, one is gone.
        update(&kernel, &mut held, images(&[(1, 10), (2, 11), (4, 10)])).unwrap();
        assert_eq!((kernel.images().unwrap(), &held), (images(&[(1, 10), (2, 11), (4, 10)]), &held));
        for fails_at in 1..=2 {
            kernel.before(Call::PutImage, fails_at, |kernel| kernel.fail(Call::PutImage, Fault::Map));
            kernel.before(Call::PutImage, fails_at + 1, FakeKernel::mend);
            update(&kernel, &mut held, images(&[(2, 12), (5, 10)])).unwrap_err();
            kernel.mend();
            assert_eq!(
                kernel.images().unwrap(),
                images(&[(1, 10), (2, 11), (4, 10)]),
                "failed at the {fails_at}. write"
            );
            assert_eq!(kernel.images().unwrap(), held);
        }
    }
}
