//! A `blue` or `green` section: source, sink, fence, reader and checks of that side.

use std::{path::Path, sync::Arc};

use cutover::{
    config::{Address, Config},
    error::{Exit, Failure},
    run::ports,
};
use cutover_core::{
    model::{run::RunId, side::Side},
    port::schema::SchemaCopy,
};
use cutover_postgres::{Database, connect::PgConfig, schema::PgSchemaCopy};

/// Describes one side; connects to nothing.
pub(super) fn open(config: &Config, side: Side, spill: &Path) -> Result<Database, Failure> {
    let here = address(config, side)?;
    let standby = standby(config, side, &here)?;
    let database = Database::new(here, side, config.run.clone(), spill);
    Ok(match standby {
        Some(standby) => database.reading_from(standby),
        None => database,
    })
}

pub(super) fn ports(database: &Database) -> ports::Database {
    ports::Database {
        address: database.address(),
        source: Arc::new(database.clone()),
        sink: Arc::new(database.clone()),
        primary: Arc::new(database.clone()),
        reader: Arc::new(database.reader()),
        examine: Arc::new(database.clone()),
    }
}

pub(super) fn schema(blue: &Database, green: &Database) -> Arc<dyn SchemaCopy> {
    Arc::new(PgSchemaCopy::new(blue.clone(), green.clone()))
}

/// How the user's own commands reach a side; holds the password.
pub(super) fn child_environment(
    config: &Config,
    side: Side,
) -> Result<Vec<(String, String)>, Failure> {
    Ok(address(config, side)?.child_env())
}

/// Address and credentials of one side.
pub(super) fn address(config: &Config, side: Side) -> Result<PgConfig, Failure> {
    read(config, side, "url", &config.database(side).url)
}

/// The same of the standby that is read in its place.
fn standby(config: &Config, side: Side, here: &PgConfig) -> Result<Option<PgConfig>, Failure> {
    let Some(given) = &config.database(side).read_from else { return Ok(None) };
    let standby = read(config, side, "read_from", given)?.or_password_of(here);
    if standby.dbname() != here.dbname() {
        let what = "names another database than `url`";
        return Err(Failure::new(format!("`{side}.read_from`: {what}"))
            .code("CUT0010")
            .remedy(format!("name the database {} there", here.dbname()))
            .exit(Exit::Usage));
    }
    Ok(Some(standby))
}

fn read(config: &Config, side: Side, key: &str, given: &Address) -> Result<PgConfig, Failure> {
    let password = config.database(side).password.as_ref().map(|p| p.secret.expose().to_owned());
    PgConfig::parse(given.expose(), password).map_err(|e| {
        Failure::new(format!("`{side}.{key}`: {e}"))
            .code("CUT0010")
            .remedy(e.remedy)
            .exit(Exit::Usage)
    })
}

/// A database outside of any configuration, for `init`; its password may be in `variable`.
pub(super) fn at(
    url: &str,
    variable: &str,
    side: Side,
    run: &RunId,
    spill: &Path,
) -> Result<Database, Failure> {
    let address = PgConfig::parse(url, std::env::var(variable).ok()).map_err(|e| {
        Failure::new(format!("--{side}: {e}")).code("CUT0010").remedy(e.remedy).exit(Exit::Usage)
    })?;
    Ok(Database::new(address, side, run.clone(), spill))
}
