//! `cutover init`: a commented configuration from what is there.

use std::{io::Write as _, path::Path};

use cutover::error::{Exit, Failure};
use serde_json::json;

use super::output::Printer;
use crate::wiring;

pub(super) async fn init(
    file: &Path,
    blue: &str,
    green: &str,
    run: Option<&str>,
    printer: Printer,
) -> Result<Exit, Failure> {
    if file.exists() {
        return Err(Failure::new(format!("{} exists already", file.display()))
            .code("CUT0022")
            .remedy("name another file with -c, or move this one away")
            .exit(Exit::Usage));
    }
    let found = wiring::look(blue, green).await?;
    let text = template(blue, green, run, &found);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(|e| Failure::new(format!("{} cannot be written", file.display())).caused_by(&e))?;
    printer.answer(
        &json!({ "file": file.display().to_string(), "schemas": found.schemas }),
        &format!(
            "wrote {}: {} schema(s) with {} table(s) on blue. Set the passwords' environment \
             variables and the switch, then `cutover check`",
            file.display(),
            found.schemas.len(),
            found.tables
        ),
    );
    Ok(Exit::Done)
}

/// An address without its password, since the file names a variable for it.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    match rest.rsplit_once('@') {
        Some((user, place)) => {
            format!("{scheme}://{}@{place}", user.split_once(':').map_or(user, |(u, _)| u))
        }
        None => url.to_owned(),
    }
}

fn template(blue: &str, green: &str, run: Option<&str>, found: &wiring::Found) -> String {
    let run = run.map_or_else(|| found.suggested_run(), str::to_owned);
    let include: Vec<String> = found.schemas.iter().map(|s| format!("\"{s}.*\"")).collect();
    format!(
        "# docs/CONFIG.md explains every key.\n\
         run: {run}\n\
         state_dir: ./state\n\
         # {blue_version}, {tables} tables\n\
         blue:  {{ url: \"{blue}\", password: {{env: BLUE_PASSWORD}} }}\n\
         # {green_version}\n\
         green: {{ url: \"{green}\", password: {{env: GREEN_PASSWORD}} }}\n\
         tables: {{ include: [{include}], exclude: [] }}\n\
         # copy: blue's definitions are copied. provided: green has its tables already.\n\
         schema: copy\n\
         copy: {{ workers: 4 }}\n\
         verify: {{ continuous: true }}\n\
         # Without a switch the run copies, follows and compares, but cannot move the traffic.\n\
         # switch:\n\
         #   - pgbouncer:\n\
         #       admin: \"postgres://pgbouncer@127.0.0.1:6432/pgbouncer\"\n\
         #       password: {{env: PGBOUNCER_PASSWORD}}\n\
         #       database: {database}\n\
         #       config: /etc/pgbouncer/pgbouncer.ini\n\
         move: {{ pause_budget: 1s, max_lag: 5s }}\n\
         http: {{ listen: \"127.0.0.1:8484\" }}\n",
        blue = without_password(blue),
        green = without_password(green),
        blue_version = found.versions[0],
        green_version = found.versions[1],
        tables = found.tables,
        include = include.join(", "),
        database = found.database,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_no_password() {
        assert_eq!(without_password("postgres://u:p@ss@h:1/d"), "postgres://u@h:1/d");
        assert_eq!(without_password("postgres://u@h/d"), "postgres://u@h/d");
        assert_eq!(without_password("postgres://h/d"), "postgres://h/d");
    }
}
