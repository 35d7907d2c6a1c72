// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The schema, parsed once, and the names of its entity types and actions.

use std::{str::FromStr, sync::LazyLock};

use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema};

/// The schema's text, for documentation and editors.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// What every request is built from.
pub(super) struct Vocabulary {
    pub(super) schema: Schema,
    workload: EntityTypeName,
    group: EntityTypeName,
    destination: EntityTypeName,
    exec_instance: EntityTypeName,
    user: EntityTypeName,
    session: EntityTypeName,
    pub(super) node_type: EntityTypeName,
    pub(super) node: EntityUid,
    /// As Cedar writes it.
    pub(super) node_name: String,
    pub(super) release: EntityUid,
    pub(super) connect: EntityUid,
    pub(super) attest: EntityUid,
    pub(super) act_for: EntityUid,
}

#[expect(clippy::expect_used, reason = "the schema is a part of the program and a test reads it")]
static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| {
    let (schema, _warnings) = Schema::from_cedarschema_str(SCHEMA).expect("bug: the built-in schema is not valid");
    let name = |text| EntityTypeName::from_str(text).expect("bug: not an entity type's name");
    let action = |text| EntityUid::from_type_name_and_id(name("Action"), EntityId::new(text));
    let node = EntityUid::from_type_name_and_id(name("Node"), EntityId::new("this"));
    Vocabulary {
        schema,
        workload: name("Workload"),
        group: name("Group"),
        destination: name("Destination"),
        exec_instance: name("ExecInstance"),
        user: name("User"),
        session: name("Session"),
        node_type: name("Node"),
        node_name: node.to_string(),
        node,
        release: action("release"),
        connect: action("connect"),
        attest: action("attest"),
        act_for: action("actFor"),
    }
});

/// The only instance. The first call parses the schema.
pub(super) fn vocabulary() -> &'static Vocabulary {
    &VOCABULARY
}

impl Vocabulary {
    pub(super) fn workload(&self, spiffe_id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.workload.clone(), EntityId::new(spiffe_id))
    }

    pub(super) fn group(&self, name: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.group.clone(), EntityId::new(name))
    }

    pub(super) fn destination(&self, name: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.destination.clone(), EntityId::new(name))
    }

    pub(super) fn exec_instance(&self, exec_id: u64) -> EntityUid {
        EntityUid::from_type_name_and_id(self.exec_instance.clone(), EntityId::new(exec_id.to_string()))
    }

    pub(super) fn user(&self, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.user.clone(), EntityId::new(id))
    }

    pub(super) fn session(&self, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.session.clone(), EntityId::new(id))
    }

    pub(super) fn is_user(&self, name: &EntityTypeName) -> bool {
        *name == self.user
    }

    pub(super) fn is_destination(&self, name: &EntityTypeName) -> bool {
        *name == self.destination
    }
}
