//! The start of a delivery into PostgreSQL, and what a dry run finds.

use headwater_engine::delivery::Store;
use headwater_engine::worker::Stop;

use super::config::PostgresConfig;
use super::connection::{Server, Trouble};
use super::created::Created;
use super::native::misfits;
use super::sink::PostgresSink;
use super::store::{Owner, PostgresStore};
use super::table::{Seen, Wanted, create, inspect, look, missing};
use crate::check::Found;
use crate::diagnose::Problem;
use crate::sinks::{MakeStore, NoStore, Place, Spec, stopped};

fn settings<'a>(place: &Place<'a>) -> Result<&'a PostgresConfig, String> {
    let missing = || format!("sink `{}` needs PostgreSQL: set `postgres.url` in the configuration", place.output.name);
    place.config.store().ok_or_else(missing)
}

fn file(sink: &PostgresSink, place: &Place<'_>) -> Result<Option<Created>, String> {
    place.created(PostgresSink::KIND, |files| Ok(sink.created(files)?.0))
}

/// Everything to open a store.
struct Opening {
    server: Server,
    wanted: Wanted,
    owner: Owner,
    /// Create what is missing: by the file, or else for the rows.
    create: Option<Option<Created>>,
}

impl Opening {
    /// Creates and checks the table.
    async fn open(&self) -> Result<(), Trouble> {
        let client = self.server.connect().await?;
        if let Some(file) = &self.create {
            create(&client, &self.wanted, file.as_ref().map(|file| file.statements.as_ref())).await?;
        }
        let inspection = inspect(&client, &self.wanted).await?;
        tracing::info!(sink = %self.owner.sink, table = %self.wanted.table, version = %inspection.version, "the table was checked");
        Ok(())
    }
}

/// Delivery of a sink.
pub(super) fn prepare(sink: &PostgresSink, place: &Place<'_>) -> Result<MakeStore, Problem> {
    let name = &place.output.name;
    let config = settings(place).map_err(Problem::plain)?;
    let server =
        Server::new(config).map_err(Problem::plain)?.reporting(place.outages.service(PostgresSink::KIND, PostgresSink::TITLE, name));
    let wanted = sink.wanted(&place.outbox.rows).map_err(|e| Problem::plain(format!("sink `{name}`: {e}")))?;
    let create = match config.create_tables {
        true => {
            let file = file(sink, place).map_err(Problem::plain)?;
            file.iter().try_for_each(Created::only_creates).map_err(Problem::plain)?;
            Some(file)
        }
        false => None,
    };
    let owner = Owner { pipeline: place.plan.pipeline.clone(), sink: name.clone() };
    let (opening, runtime) = (Opening { server, wanted, owner, create }, place.runtime.clone());
    Ok(Box::new(move |stop: &Stop| {
        let opened = runtime.block_on(async {
            tokio::select! {
                opened = opening.open() => opened,
                () = stopped(stop) => Err(Trouble::NotNow("the worker stops".to_string())),
            }
        });
        opened.map_err(|trouble| match trouble {
            Trouble::NotNow(why) | Trouble::TooSlow(why) => NoStore::NotNow(why),
            other => NoStore::Refused(other.to_string()),
        })?;
        let Opening { server, wanted, owner, .. } = &opening;
        Ok(Store::Positions(Box::new(PostgresStore::new(server.clone(), wanted.clone(), owner.clone(), runtime.clone()))))
    }))
}

/// What a start would find, without creating anything.
pub(super) fn dry_run(sink: &PostgresSink, place: &Place<'_>) -> Result<String, Found> {
    let config = settings(place)?;
    let server = Server::new(config)?;
    let wanted = sink.wanted(&place.outbox.rows)?;
    let verified = server.verifies().map_or(String::new(), |how| format!("; {how}"));
    let found = place.runtime.block_on(async {
        let client = server.connect().await?;
        look(&client, &wanted).await
    });
    match found {
        Ok(Seen::Ready(inspection)) => Ok(format!("exactly-once, PostgreSQL {}{verified}", inspection.version)),
        Ok(Seen::NoPositions(_)) if config.create_tables => Ok(format!("exactly-once; the table of positions will be created{verified}")),
        Ok(Seen::NoPositions(what)) => Err(what.into()),
        Ok(Seen::NoTable) if !config.create_tables => Err(missing(&wanted).to_string().into()),
        Err(Trouble::NotNow(why) | Trouble::TooSlow(why)) => {
            Err(Found::Unknown(format!("{why}. A worker starts, and only this sink waits until PostgreSQL responds")))
        }
        Ok(Seen::NoTable) => {
            let Some(file) = file(sink, place)? else {
                return Ok(format!("will be created for its rows: no file under schemas/postgres creates it{verified}"));
            };
            file.only_creates()?;
            match misfits(wanted.rows.fields().iter(), &file.columns).into_iter().next() {
                Some(misfit) => Err(format!("{} creates it, but rows don't fit: {misfit}", file.file).into()),
                None => Ok(format!("will be created by {}{verified}", file.file)),
            }
        }
        Err(other) => Err(other.to_string().into()),
    }
}

/// The positions of a sink; with `delete` they are deleted.
pub(super) fn forget(sink: &PostgresSink, place: &Place<'_>, delete: bool) -> Result<Option<String>, String> {
    let server = Server::new(settings(place)?)?;
    let positions = sink.wanted(&place.outbox.rows)?.table.positions();
    let (pipeline, name) = (place.plan.pipeline.as_str(), place.output.name.as_str());
    let asked: Result<i64, Trouble> = place.runtime.block_on(async {
        let client = server.connect().await?;
        let there: bool = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&positions]).await?.get(0);
        if !there {
            return Ok(0);
        }
        let own = format!("FROM {positions} WHERE pipeline = $1 AND sink = $2");
        let found = client.query_one(&format!("SELECT count(*) {own}"), &[&pipeline, &name]).await?.get(0);
        if delete {
            client.execute(&format!("DELETE {own}"), &[&pipeline, &name]).await?;
        }
        Ok(found)
    });
    match asked {
        Ok(0) => Ok(None),
        Ok(found) => Ok(Some(format!("{found} in {positions}"))),
        Err(trouble) => Err(trouble.to_string()),
    }
}
