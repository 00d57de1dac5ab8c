//! The demo on real services.

use std::sync::Arc;

use headwater_devenv::Environment;
use headwater_engine::worker::Stop;

use super::{DemoArgs, Generated, Ground, Held, LoadThread, OUT_OF_ORDER_MS};
use crate::cli::local;
use crate::config::{Config, RegistryConfig};
use crate::diagnose::Problem;
use crate::observe::outages::Outages;
use crate::sinks::Spec;
use crate::sinks::clickhouse::{self, ClickHouseConfig, ClickHouseSink, Connection};
use crate::worker::run::{self, Prepared, Running, Services};

/// Starts the services in the demo's folder.
pub(super) fn up(args: &DemoArgs) -> Result<Environment, Problem> {
    let dir = args.dir.join("environment");
    eprintln!("starting Kafka, the schema registry and the ClickHouse engine in {} (fetched on first use)", dir.display());
    let mut options = local::options(dir, 1)?;
    // It lives for minutes: what the second compiler would gain later, its work costs at the start.
    options.kafka_java = vec!["-XX:TieredStopAtLevel=1".to_string()];
    local::up(&options).map_err(|e| Problem::plain(e.to_string()))
}

pub(super) struct Real {
    bootstrap: String,
    registry: Option<String>,
    services: Services,
    config: Config,
    connection: Connection,
    runtime: tokio::runtime::Handle,
}

#[derive(clap::Parser)]
struct Load {
    #[command(flatten)]
    args: headwater_generate::Args,
}

impl Real {
    pub(super) fn new(args: &DemoArgs, environment: &Environment, runtime: &tokio::runtime::Handle) -> Result<Real, Problem> {
        let mut config = Config::default();
        config.kafka.bootstrap = environment.bootstrap.clone();
        config.schema_registry = environment.registry.clone().map(RegistryConfig::at);
        let clickhouse = environment.clickhouse.clone().ok_or_else(|| Problem::plain("no ClickHouse engine"))?;
        let settings = ClickHouseConfig { create_tables: true, ..ClickHouseConfig::at(clickhouse) };
        config.set_store(ClickHouseSink::KIND, settings.clone());
        config.worker.lanes = 1;
        config.worker.state_dir = args.dir.join("state");
        config.worker.http = Some("127.0.0.1:0".into());
        Ok(Real {
            bootstrap: environment.bootstrap.clone(),
            registry: environment.registry.clone(),
            services: run::connect(&config, "hw-demo", None, runtime, &Outages::default())?,
            config,
            connection: clickhouse::connect(&settings)?,
            runtime: runtime.clone(),
        })
    }

    fn numbers(&self, sql: &str) -> Vec<f64> {
        let rows = self.runtime.block_on(self.connection.rows(sql)).unwrap_or_default();
        rows.first().map(|row| row.iter().map(|v| v.parse().unwrap_or(0.0)).collect()).unwrap_or_default()
    }
}

impl Ground for Real {
    fn services(&self) -> &Services {
        &self.services
    }

    fn load(&self, rate: f64, generated: &Arc<Generated>) -> Result<LoadThread, Problem> {
        let rate = rate.to_string();
        let disorder = format!("{OUT_OF_ORDER_MS}ms");
        let words = [
            "load",
            "--rate",
            &rate,
            "--out-of-order",
            &disorder,
            "--products",
            "200",
            "--customers",
            "2000",
            "--v2-share",
            "0.3",
            "--quiet",
        ];
        let load = <Load as clap::Parser>::try_parse_from(words).map_err(|e| Problem::plain(e.to_string()))?.args;
        let (bootstrap, registry) = (self.bootstrap.clone(), self.registry.clone());
        generated.spawn(move |generated| {
            let begin = &mut || generated.tables_written();
            let progress = &mut |progress: &headwater_generate::Progress| *generated.progress.lock() = Some(*progress);
            headwater_generate::run_until(&load, &bootstrap, registry.as_deref(), &generated.stop, begin, progress)
        })
    }

    fn start(&self, prepared: &Prepared) -> Result<Running, Problem> {
        let pages = run::open_pages(&self.config, &prepared.plan.pipeline, &prepared.services.outages, &self.runtime)?;
        run::start(prepared, &self.config, None, Stop::default(), &pages)
    }

    fn held(&self) -> Held {
        let sold = self.numbers("SELECT sum(quantity), toFloat64(sum(revenue)) FROM analytics.revenue_per_minute");
        let audited = self.numbers("SELECT count(), uniqExact(_partition, _offset, _row) FROM audit.events");
        let sql = "SELECT formatDateTime(window_start, '%H:%i:%S'), category, sum(orders), sum(quantity), sum(revenue) \
                   FROM analytics.revenue_per_minute WHERE window_start = (SELECT max(window_start) FROM analytics.revenue_per_minute) \
                   GROUP BY 1, 2 ORDER BY 5 DESC LIMIT 6";
        let rows = self.runtime.block_on(self.connection.rows(sql)).unwrap_or_default();
        let window = |row: &Vec<String>| match row.as_slice() {
            [start, category, orders, items, revenue] => {
                Some(format!("{start}  {category:<14} {orders:>6} orders {items:>7} items {revenue:>14}"))
            }
            _ => None,
        };
        let at = |numbers: &[f64], i: usize| numbers.get(i).copied().unwrap_or(0.0);
        Held {
            items: at(&sold, 0),
            revenue: at(&sold, 1),
            audited: at(&audited, 0),
            positions: at(&audited, 1),
            windows: rows.iter().filter_map(window).collect(),
        }
    }

    fn tables(&self) -> &'static str {
        "ClickHouse"
    }
}
