//! From what is asked for, and what is there, to what has to be started.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::environment::{Environment, Route};
use crate::kafka::Node;
use crate::options::{Options, front};
use crate::ports::{free_ports, is_free};
use crate::service::Service;
use crate::startup::{ClickHousePlan, Plan};
use crate::{LocalError, registry};

/// A Kafka node as it is written down.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct SavedNode {
    pub id: u8,
    pub client: u16,
    pub controller: u16,
    pub proxied: Option<(u16, u16)>,
}

impl Environment {
    /// Checks that an existing environment is the one that is asked for.
    pub(crate) fn fits(self, options: &Options) -> Result<Environment, LocalError> {
        let differs = |what: &str| {
            let shown = self.dir.display();
            Err(LocalError::Mismatch(format!("the environment in {shown} was made with {what}: take it down and wipe it first")))
        };
        if self.nodes.len() != usize::from(options.brokers) {
            return differs(&format!("{} brokers", self.nodes.len()));
        }
        if options.proxied && self.proxied.is_empty() {
            return differs("no second listener for proxies");
        }
        Ok(self)
    }

    /// A new environment: chooses Kafka's ports.
    pub(crate) fn planned(dir: PathBuf, options: &Options) -> Result<Environment, LocalError> {
        let count = usize::from(options.brokers);
        let mut ports = free_ports(4 * count).map_err(LocalError::io("no free ports"))?.into_iter();
        let mut take = || ports.next().ok_or_else(|| LocalError::Mismatch("no free ports".to_owned()));
        let mut nodes = Vec::with_capacity(count);
        for id in 1..=options.brokers {
            let client = match options.ports.kafka {
                Some(first) => wanted(Service::Kafka(id), first.saturating_add(u16::from(id) - 1))?,
                None => take()?,
            };
            let proxied = if options.proxied { Some((take()?, take()?)) } else { None };
            nodes.push(SavedNode { id, client, controller: take()?, proxied });
        }
        let bootstrap = nodes.iter().map(|node| local(node.client).to_string()).collect::<Vec<_>>().join(",");
        let route = |node: &SavedNode| node.proxied.map(|(upstream, listen)| Route { listen: local(listen), upstream: local(upstream) });
        let proxied = nodes.iter().filter_map(route).collect();
        Ok(Environment { dir, bootstrap, registry: None, clickhouse: None, postgres: None, proxied, nodes, services: Vec::new() })
    }

    /// What is missing of what is asked for. A service that has an address already keeps it.
    pub(crate) fn plan(&mut self, options: &Options) -> Result<Plan, LocalError> {
        let runs = |service| self.record(service).is_ok_and(|record| record.alive(&self.dir));
        let mut free = free_ports(4).map_err(LocalError::io("no free ports"))?.into_iter();
        let mut any = || free.next().ok_or_else(|| LocalError::Mismatch("no free ports".to_owned()));
        let mut port = |service, asked: Option<u16>| match (self.record(service), asked) {
            (Ok(record), _) => Ok(record.address.port()),
            (Err(_), Some(port)) => wanted(service, port),
            (Err(_), None) => any(),
        };
        let (mut registry, mut clickhouse) = (None, None);
        if options.registry && !runs(Service::Registry) {
            registry = Some(port(Service::Registry, options.ports.registry)?);
        }
        if options.clickhouse && !runs(Service::ClickHouse) {
            let own = port(Service::ClickHouse, options.ports.clickhouse)?;
            clickhouse = Some(ClickHousePlan { front: front(options)?, port: own });
        }
        let postgres = match options.postgres && !runs(Service::Postgres) {
            true => Some(port(Service::Postgres, options.ports.postgres)?),
            false => None,
        };
        let node = |node: &SavedNode| Node { id: node.id, client: node.client, controller: node.controller, proxied: node.proxied };
        let plan = Plan {
            root: self.dir.clone(),
            nodes: self.nodes.iter().map(node).collect(),
            start_nodes: self.nodes.iter().map(|node| node.id).filter(|id| !runs(Service::Kafka(*id))).collect(),
            registry: registry.map(|own| Ok::<_, LocalError>((own, any()?))).transpose()?, // management on any port
            clickhouse,
            postgres,
            kafka_settings: options.kafka_settings.clone(),
            kafka_java: options.kafka_java.clone(),
            patience: options.patience,
        };
        if let Some((port, _)) = plan.registry {
            self.registry = Some(format!("http://{}{}", local(port), registry::BASE_PATH));
        }
        if let Some(clickhouse) = &plan.clickhouse {
            self.clickhouse = Some(format!("http://{}", local(clickhouse.port)));
        }
        if let Some(port) = plan.postgres {
            self.postgres = Some(format!("postgres://{}/postgres", local(port)));
        }
        Ok(plan)
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn wanted(service: Service, port: u16) -> Result<u16, LocalError> {
    if is_free(port) { Ok(port) } else { Err(LocalError::PortInUse { service, port }) }
}
