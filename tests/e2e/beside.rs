//! What is defined beside tables and changes during a run: it does not travel, and a move says so.

use cutover_core::model::side::Side;

use crate::{
    pair::{Pair, oldest_and_newest},
    program::{COMMAND_WITHIN, Ended},
};

const CODE: &str = "CUT0184";

const BEFORE: &str = "CREATE FUNCTION vat(numeric) RETURNS numeric LANGUAGE sql AS 'SELECT $1 * 0.19'; \
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
    CREATE VIEW cheap AS SELECT id, name FROM products WHERE price < 5";
const VAT: &str =
    "CREATE OR REPLACE FUNCTION vat(numeric) RETURNS numeric LANGUAGE sql AS 'SELECT $1 * 0.2'";
const TRIGGER: &str =
    "CREATE TRIGGER touched BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION touch()";
const GRANT: &str = "GRANT SELECT ON orders TO PUBLIC";
const VIEWS: &str = "CREATE OR REPLACE VIEW cheap AS SELECT id, name FROM products WHERE price < 7; \
    CREATE VIEW dear AS SELECT id, name FROM products WHERE price > 700";

/// What the warning names, where it was printed and in the evidence.
fn warned(ended: &Ended) -> String {
    let said = ended.said.split_once(CODE).map(|(_, said)| said).unwrap_or_default();
    let path = ended.value["evidence"].as_str().expect("evidence");
    let evidence = std::fs::read_to_string(path).expect("a readable file");
    assert_eq!(evidence.contains(CODE), !said.is_empty(), "{}", ended.said);
    let named = said.split_once("do not travel: ").map(|(_, named)| named).unwrap_or_default();
    named.lines().next().unwrap_or_default().to_owned()
}

/// Makes a move that goes well; what it warned of.
async fn moved(pair: &Pair, command: &str) -> String {
    let ended = pair.desk.moves(command).await;
    warned(ended.exits(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_travel_is_told_before_a_move() {
    let servers = oldest_and_newest().await;
    let pair = Pair::open("beside", &servers.0, &servers.1, "").await;
    pair.does(Side::Blue, BEFORE).await;
    let load = pair.load();
    let mut run = pair.desk.run();
    run.ready().await;
    assert_eq!(moved(&pair, "rehearse").await, "");

    for change in [VAT, TRIGGER, GRANT, VIEWS] {
        pair.does(Side::Blue, change).await;
    }
    let all = "function public.vat(numeric) (altered), grants on table public.orders (altered), \
               trigger touched on public.products (new), view public.cheap (altered), \
               view public.dear (new)";
    assert_eq!(moved(&pair, "rehearse").await, all);
    pair.desk.ask(&["check"]).await.says(CODE);
    // What is made on the other side, too, is told no more, also of another version.
    pair.does(Side::Green, GRANT).await;
    pair.does(Side::Green, VIEWS).await;
    let rest = "function public.vat(numeric) (altered), trigger touched on public.products (new)";
    assert_eq!(moved(&pair, "switch").await, rest);

    // From here on green's count, and a new process knows them as well.
    assert!(run.terminate().await.success());
    run = pair.desk.run();
    run.ready().await;
    assert_eq!(moved(&pair, "rehearse").await, "");
    pair.does(Side::Green, &VAT.replace("0.2", "0.21")).await;
    pair.does(Side::Green, "DROP VIEW dear").await;
    let since = "function public.vat(numeric) (altered), view public.dear (gone)";
    assert_eq!(moved(&pair, "rollback").await, since);
    assert_eq!(moved(&pair, "rehearse").await, "");

    pair.does(Side::Blue, "DROP TRIGGER touched ON products").await;
    pair.close_the_books(load, Side::Blue).await;
    pair.desk.ask(&["abort", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    pair.nothing_is_left().await;
}

/// What a stream makes on the other side has travelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_stream_makes_is_not_told() {
    let servers = oldest_and_newest().await;
    let pair = Pair::open("beside-apply", &servers.0, &servers.1, "ddl: apply\n").await;
    for side in [Side::Blue, Side::Green] {
        let root = pair.superuser(side).await;
        root.batch_execute("ALTER ROLE cutover SUPERUSER").await.expect("a superuser may");
    }
    pair.does(Side::Blue, BEFORE).await;
    let load = pair.load();
    let mut run = pair.desk.run();
    run.ready().await;
    pair.does(
        Side::Blue,
        "CREATE TYPE mood AS ENUM ('calm'); \
         ALTER TABLE products ADD COLUMN mood mood, ADD COLUMN rating integer NOT NULL DEFAULT 3; \
         CREATE INDEX products_rating ON products (rating) WHERE rating > 3; \
         CREATE TABLE events_2031_03 PARTITION OF events \
             FOR VALUES FROM ('2031-03-01') TO ('2031-04-01'); \
         CREATE TABLE later (id integer PRIMARY KEY, what text DEFAULT 'none')",
    )
    .await;
    pair.does(Side::Blue, VAT).await;
    pair.holds(Side::Green, "SELECT to_regclass('later') IS NOT NULL").await;
    run.ready().await;
    assert_eq!(moved(&pair, "switch").await, "function public.vat(numeric) (altered)");
    pair.close_the_books(load, Side::Green).await;
    pair.desk.ask(&["finish", "--yes"]).await.exits(0);
    assert!(run.ended(COMMAND_WITHIN).await.success());
    pair.nothing_is_left().await;
}
