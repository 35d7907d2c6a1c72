// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What may be executed in governed trees: the kernel's table says of each file as what it may be, and is made anew when
//! what operators wrote or the files themselves are other than they were.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Node;
use super::super::reason::Reason;
use super::record::Who;
use super::{State, tag};
use crate::audit::Outcome;
use crate::diagnostic::with_sources;
use crate::egress::{ImagePlace, Images, Tables, update_images};
use crate::identity::ImageRule;
use crate::process::{Error, Means, RefusedImage};
use crate::snapshot::Snapshot;

/// Files are looked at this often.
const LOOK: Duration = Duration::from_secs(10);
/// After something was refused: it may have been replaced by an upgrade a moment ago.
const LOOK_AFTER: Duration = Duration::from_secs(2);
/// Problems that are shown.
const SHOWN: usize = 16;

/// What is known of the files.
#[derive(Debug, Default)]
pub(super) struct Programs {
    /// What the kernel's table says; none: not read yet.
    held: Option<Images>,
    /// Why some files do not count.
    problems: Vec<String>,
    /// When they are looked at next.
    at: Option<Instant>,
}

impl Programs {
    pub(super) fn len(&self) -> usize {
        self.held.as_ref().map(HashMap::len).unwrap_or_default()
    }

    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl Node {
    /// The files that each entry that governs lists, and why others do not count. Looks at the disk, so without the lock.
    pub(super) fn find_programs(&self, snapshot: &Snapshot) -> (HashMap<u64, Images>, Vec<String>) {
        let (mut wanted, mut problems) = (HashMap::new(), Vec::new());
        for entry in snapshot.entries.iter().filter(|entry| entry.governs.is_some()) {
            let (found, odd) = self.attestor.programs(&entry.programs);
            problems.extend(odd.into_iter().map(|odd| format!("{}: {odd}", entry.id)));
            let mut images = Images::new();
            for program in found {
                for device in program.devices {
                    images.insert(ImagePlace { tree: 0, device, inode: program.inode }, program.changed);
                }
            }
            wanted.insert(tag(entry), images);
        }
        problems.truncate(SHOWN);
        (wanted, problems)
    }

    /// Looks at the files again, if it is time.
    pub(super) async fn look_at_programs(self: &Arc<Self>) {
        let is_time = self.egress.lock().programs.at.is_some_and(|at| at <= Instant::now());
        if !is_time {
            return;
        }
        let node = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || {
            let snapshot = node.snapshot();
            let found = node.find_programs(&snapshot);
            let mut state = node.egress.lock();
            // Otherwise what is read anew has its own look.
            let is_compiled = state.compiled.as_ref().is_some_and(|(_, of)| of.number == snapshot.number);
            if is_compiled { state.keep_programs(&*node.egress.tables, found) } else { Ok(()) }
        });
        match looked.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(error = %with_sources(&error), "the files of programs could not be taken in");
            }
            Err(error) => tracing::error!(%error, "the files of programs could not be looked at"),
        }
    }

    /// Writes that an image was refused, or would be.
    pub(super) async fn record_image(self: &Arc<Self>, image: RefusedImage) {
        self.egress.lock().programs.soon();
        let snapshot = self.snapshot();
        let who =
            Who { exec_id: image.exec_id, tgid: image.tgid, session_id: image.session_id, ids: (image.uid, image.gid) };
        let Some((mut record, _)) = self.draft_of(&snapshot, "exec", &who).await else { return };
        let what = match image.means {
            Means::None => "would be refused",
            Means::Hook => "was refused",
            Means::Signal => "was killed before its first instruction",
            Means::Failed => "should have been killed and runs, because the kernel sent no signal",
        };
        let (major, minor) = image.device;
        record.audit_mode = image.means == Means::None;
        let is_let = matches!(image.means, Means::None | Means::Failed);
        record.outcome = if is_let { Outcome::Allow } else { Outcome::Deny };
        record.reason = Reason::ExecUnlisted.as_str().to_owned();
        record.detail = format!(
            "{} (inode {} of device {major}:{minor}) {what}: it is none of the programs of its tree's entry, as they were \
             when they were looked at",
            image.filename, image.inode
        );
        record.remediation = Some(
            "add the file that is executed (of a script, its interpreter) to the entry's exec.programs; what root replaces \
             counts again within seconds"
                .to_owned(),
        );
        self.tell_refused(record);
    }
}

impl Programs {
    /// Something was refused.
    fn soon(&mut self) {
        let soon = Instant::now().checked_add(LOOK_AFTER);
        self.at = match (self.at, soon) {
            (Some(at), Some(soon)) => Some(at.min(soon)),
            (at, _) => at,
        };
    }
}

impl State {
    /// Has the kernel's table say which files may be executed. A tree whose entry is gone keeps what it had.
    pub(super) fn keep_programs(
        &mut self,
        tables: &dyn Tables,
        (found, problems): (HashMap<u64, Images>, Vec<String>),
    ) -> Result<(), Error> {
        let mut held = match self.programs.held.take() {
            Some(held) => held,
            None => tables.images()?,
        };
        let mut wanted = Images::new();
        let mut known = HashSet::new();
        for (tag, tree) in &self.trees {
            let Some(images) = found.get(tag) else { continue };
            known.insert(tree.place);
            for (place, changed) in images {
                wanted.insert(ImagePlace { tree: tree.place, ..*place }, *changed);
            }
        }
        wanted.extend(held.iter().filter(|(place, _)| !known.contains(&place.tree)));
        let updated = update_images(tables, &mut held, wanted);
        // What is not known is read again.
        self.programs.held = updated.is_ok().then_some(held);
        let rules = |tree: &super::Tree| tree.settings.iter().any(|settings| settings.images != ImageRule::Any);
        self.programs.at = if self.trees.values().any(rules) { Instant::now().checked_add(LOOK) } else { None };
        for problem in problems.iter().filter(|problem| !self.programs.problems.contains(problem)) {
            tracing::warn!(problem, "a program that an entry lists does not count");
        }
        self.programs.problems = problems;
        updated
    }
}
