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
