//! The topics of the load, their keys and their schemas (`schemas/` at the root of the project).

use serde::Serialize;

/// A topic that the load writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Topic {
    /// `business.catalog.products`, a compacted table keyed by product id.
    #[serde(rename = "business.catalog.products")]
    Products,
    /// `business.users.customers`, a compacted table keyed by customer id.
    #[serde(rename = "business.users.customers")]
    Customers,
    /// `business.orders.created`, keyed by customer id.
    #[serde(rename = "business.orders.created")]
    Orders,
    /// `business.payments.completed`, keyed by order id.
    #[serde(rename = "business.payments.completed")]
    Payments,
    /// `business.inventory.adjusted`, keyed by product id (sku).
    #[serde(rename = "business.inventory.adjusted")]
    Inventory,
    /// `business.users.registered`, keyed by customer id.
    #[serde(rename = "business.users.registered")]
    Registrations,
}

impl Topic {
    /// Every topic, tables first: the order in which they are created.
    pub const ALL: [Topic; 6] = [Topic::Products, Topic::Customers, Topic::Orders, Topic::Payments, Topic::Inventory, Topic::Registrations];

    /// The name in Kafka.
    pub const fn name(self) -> &'static str {
        match self {
            Topic::Products => "business.catalog.products",
            Topic::Customers => "business.users.customers",
            Topic::Orders => "business.orders.created",
            Topic::Payments => "business.payments.completed",
            Topic::Inventory => "business.inventory.adjusted",
            Topic::Registrations => "business.users.registered",
        }
    }

    /// The subject of its values in the registry: topic name and `-value`.
    pub fn subject(self) -> String {
        format!("{}-value", self.name())
    }

    /// Whether it is a table: compacted, newest record per key wins.
    pub const fn is_table(self) -> bool {
        matches!(self, Topic::Products | Topic::Customers)
    }

    /// The versions of its schema, oldest first.
    pub const fn schemas(self) -> &'static [&'static str] {
        macro_rules! schema {
            ($file:literal) => {
                include_str!(concat!("../../schemas/", $file, ".avsc"))
            };
        }
        match self {
            Topic::Products => &[schema!("business.catalog.products-value/v1")],
            Topic::Customers => &[schema!("business.users.customers-value/v1")],
            Topic::Orders => &[schema!("business.orders.created-value/v1"), schema!("business.orders.created-value/v2")],
            Topic::Payments => &[schema!("business.payments.completed-value/v1")],
            Topic::Inventory => &[schema!("business.inventory.adjusted-value/v1")],
            Topic::Registrations => &[schema!("business.users.registered-value/v1")],
        }
    }
}
