//! The shop behind the load: products, customers and their prices, stock and tiers as they change.

use std::sync::Arc;

use uuid::Uuid;

use crate::event::{Customer, Product};
use crate::random::{Random, Zipf};

/// The categories with the price range of their products in cents.
const RANGES: [(&str, i64, i64); 12] = [
    ("audio", 1_990, 59_900),
    ("books", 690, 4_990),
    ("computers", 4_990, 189_900),
    ("garden", 990, 39_900),
    ("grocery", 99, 2_490),
    ("health", 299, 7_990),
    ("home", 790, 49_900),
    ("jewelry", 1_990, 149_900),
    ("phones", 4_990, 119_900),
    ("shoes", 2_990, 24_900),
    ("sports", 990, 69_900),
    ("toys", 590, 14_900),
];

/// The categories, in alphabetical order.
pub const CATEGORIES: [&str; 12] = {
    let mut names = [""; 12];
    let mut at = 0;
    while at < RANGES.len() {
        names[at] = RANGES[at].0;
        at += 1;
    }
    names
};

pub(crate) const COUNTRIES: [(u64, &str); 8] = [(40, "DE"), (14, "FR"), (12, "AT"), (10, "NL"), (8, "GB"), (8, "US"), (5, "CH"), (3, "PL")];
const TIERS: [(u64, &str); 4] = [(70, "standard"), (20, "silver"), (8, "gold"), (2, "platinum")];

/// One product as it stands now.
#[derive(Debug, Clone)]
pub(crate) struct Article {
    pub(crate) id: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) category: &'static str,
    pub(crate) price_cents: i64,
    pub(crate) stock: i64,
    pub(crate) reorder_level: i32,
}

/// One customer as they stand now.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) id: Uuid,
    pub(crate) tier: &'static str,
    pub(crate) country: &'static str,
    /// Event time of the latest order: orders of one customer do not overtake each other.
    pub(crate) last_order_ms: i64,
}

/// The state that orders are drawn from. It depends on the seed and the sizes only, not on the start of the load: two loads
/// with one seed have the same products and customers.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) articles: Vec<Article>,
    pub(crate) people: Vec<Person>,
    popularity: Zipf,
}

impl Shop {
    pub(crate) fn new(seed: u64, products: u32, customers: u32) -> Self {
        let mut random = Random::new(seed, 1);
        let articles: Vec<Article> = (0..products.max(1)).map(|number| article(number, &mut random)).collect();
        let mut random = Random::new(seed, 2);
        let people = (0..customers.max(1)).map(|_| person(&mut random)).collect();
        let popularity = Zipf::new(articles.len());
        Shop { articles, people, popularity }
    }

    /// A product by popularity.
    pub(crate) fn draw_article(&mut self, random: &mut Random) -> &mut Article {
        let at = self.popularity.draw(random);
        &mut self.articles[at]
    }

    /// A customer; the lower half of the list orders three times as often as the upper half.
    pub(crate) fn draw_person(&mut self, random: &mut Random) -> &mut Person {
        let len = self.people.len();
        let at = random.index(len).min(random.index(len));
        &mut self.people[at]
    }
}

fn article(number: u32, random: &mut Random) -> Article {
    let (category, low, high) = RANGES[random.index(RANGES.len())];
    // The lowest of several draws: most products of a category are cheap, a few are dear.
    let price_cents = (0..7).map(|_| random.between(low, high)).min().unwrap_or(low);
    Article {
        id: format!("SKU-{number:05}").into(),
        name: format!("{category} article {number}").into(),
        category,
        price_cents,
        stock: 0,
        reorder_level: 10 * random.between(1, 10) as i32,
    }
}

pub(crate) fn person(random: &mut Random) -> Person {
    Person { id: random.uuid(), tier: random.pick(&TIERS, "standard"), country: random.pick(&COUNTRIES, "DE"), last_order_ms: i64::MIN }
}

impl Article {
    /// The row of the product table.
    pub(crate) fn row(&self, updated_at_ms: i64) -> Product {
        Product {
            product_id: self.id.clone(),
            name: self.name.clone(),
            category: self.category,
            price_cents: self.price_cents,
            updated_at_ms,
        }
    }

    /// Moves the price by up to a tenth, within what the schema's decimal(12,2) and good sense allow.
    pub(crate) fn change_price(&mut self, random: &mut Random) {
        let change = self.price_cents * random.between(-100, 100) / 1000;
        self.price_cents = (self.price_cents + change).clamp(99, 500_000);
    }
}

impl Person {
    /// The row of the customer table.
    pub(crate) fn row(&self, updated_at_ms: i64) -> Customer {
        Customer { customer_id: self.id, tier: self.tier, country: self.country, updated_at_ms }
    }

    pub(crate) fn change_tier(&mut self, random: &mut Random) {
        self.tier = random.pick(&TIERS, "standard");
    }
}
