//! The page about grants, executed as it stands there.

use cutover_core::{
    model::{finding::Scope, run::RunId, schema::Table, selection::Selection, side::Side},
    port::{
        examine::{Examine, Question},
        primary::Primary,
        schema::SchemaCopy,
        sink::Sink,
        source::Source,
    },
};
use cutover_postgres::{Database, connect::PgConfig, schema::PgSchemaCopy};
use cutover_sandbox::{PgInstall, PgOptions, Postgres, find_postgres, find_program};

use crate::place::PATIENCE;

/// Tables of every kind that a run can move, in a schema of their own and in `public`.
const TABLES: &str = "
    CREATE SCHEMA app AUTHORIZATION shop_owner;
    GRANT CREATE ON SCHEMA public TO shop_owner;
    SET ROLE shop_owner;
    CREATE TYPE app.mood AS ENUM ('fine', 'poor');
    CREATE TABLE app.plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a app.mood);
    CREATE TABLE app.parts (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    CREATE TABLE public.child (id int PRIMARY KEY REFERENCES public.child);
    CREATE SEQUENCE app.free;
    CREATE VIEW app.seen AS SELECT id FROM app.plain;
    RESET ROLE;";

/// A block of SQL of the page, with the words behind `sql`.
struct Block {
    words: Vec<String>,
    sql: String,
}

impl Block {
    fn says(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    /// `14` is for 14 only, `15` for 15 and newer.
    fn is_for(&self, major: u32) -> bool {
        (!self.says("14") || major == 14) && (!self.says("15") || major >= 15)
    }
}

fn blocks() -> Vec<Block> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/GRANTS.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut blocks = Vec::new();
    let mut rest = page.as_str();
    while let Some((_, after)) = rest.split_once("```sql") {
        let (head, body) = after.split_once('\n').unwrap();
        let (body, after) = body.split_once("```").unwrap();
        let words = head.split_whitespace().map(str::to_owned).collect();
        blocks.push(Block { words, sql: body.to_owned() });
        rest = after;
    }
    assert!(blocks.len() > 5, "the page has lost its statements");
    blocks
}

/// One server of the migration, prepared as the page says.
struct Place {
    server: Postgres,
    /// Its standby, when that is read.
    reader: Option<Postgres>,
    side: Side,
}

impl Place {
    async fn start(install: &PgInstall, side: Side) -> Self {
        let server = Postgres::start(install, PgOptions::new()).await.unwrap();
        server.create_role("shop_owner", "secret", "").await.unwrap();
        server.create_database("shop").await.unwrap();
        Self { server, reader: None, side }
    }

    /// The same, read from a standby.
    async fn with_standby(install: &PgInstall, side: Side) -> Self {
        let mut place = Self::start(install, side).await;
        let alone = [("sync_replication_slots", "off")];
        let settings = if install.major >= 17 { &alone[..] } else { &[] };
        place.reader = Some(place.server.standby(settings).await.unwrap());
        place
    }

    async fn follow(&self, blocks: &[Block], afterwards: bool) {
        for block in blocks {
            let wanted = block.says("afterwards") == afterwards
                && block.is_for(self.server.major())
                && (!block.says("green") || self.side == Side::Green)
                && (!block.says("standby") || self.reader.is_some())
                && !block.says("optional");
            if wanted {
                self.server.execute("shop", &block.sql).await.unwrap();
            }
        }
    }

    fn database(&self) -> Database {
        let url = self.server.url_as("cutover", "choose one", "shop");
        let config = PgConfig::parse(&url, None).unwrap();
        let database = Database::new(config, self.side, run(), &std::env::temp_dir());
        let Some(reader) = &self.reader else { return database };
        let url = reader.url_as("cutover", "choose one", "shop");
        database.reading_from(PgConfig::parse(&url, None).unwrap())
    }
}

fn run() -> RunId {
    RunId::new("shop").unwrap()
}

fn selection() -> Selection {
    Selection { include: vec!["app.*".into(), "public.*".into()], exclude: Vec::new() }
}

/// No finding, before the start and before a move, but that event triggers take a superuser.
async fn examined(database: &Database, tables: &[Table], resuming: bool) {
    for scope in [Scope::Start, Scope::Move] {
        let question = Question {
            run: run(),
            side: database.side(),
            scope,
            selection: selection(),
            tables: tables.to_vec(),
            owners: vec!["shop_owner".into()],
            owned_in: ["app", "public"].map(|s| (s.to_owned(), "shop_owner".to_owned())).into(),
            schema_owners: Default::default(),
            belongings: Vec::new(),
            forced: Vec::new(),
            owns_writes: database.side() == Side::Blue,
            resuming,
            copies_schema: true,
            workers: 4,
        };
        let found = database.examine(&question).await.unwrap();
        assert!(found.iter().all(|f| f.code == "CUT0150"), "{scope:?}: {found:#?}");
    }
}

/// What both sides do during a run, so that each right is used and not only looked up.
async fn work_on(database: &Database, tables: &[Table]) {
    database.prepare(&run()).await.unwrap();
    drop(database.writer(&run(), &[]).await.unwrap());
    drop(database.capture(&run(), tables, true).await.unwrap());
    database.install_fence(&run(), tables).await.unwrap();
    database.close_to_clients(&run(), PATIENCE).await.unwrap();
    database.open_to_clients(&run()).await.unwrap();
    let counters = database.counters(&selection()).await.unwrap();
    assert_eq!(counters.len(), 2);
    database.advance(&counters).await.unwrap();
}

async fn leave(database: &Database) {
    database.remove_fence(&run()).await.unwrap();
    Source::release(database, &run()).await.unwrap();
    Sink::release(database, &run()).await.unwrap();
}

#[tokio::test]
async fn the_role_of_the_page_can_do_everything_and_leaves_without_a_trace() {
    let blocks = blocks();
    for install in find_postgres() {
        let blue_place = Place::start(&install, Side::Blue).await;
        let green_place = Place::start(&install, Side::Green).await;
        blue_place.server.execute("shop", TABLES).await.unwrap();
        blue_place.follow(&blocks, false).await;
        green_place.follow(&blocks, false).await;
        let (blue, green) = (blue_place.database(), green_place.database());

        let tables = blue.tables(&selection()).await.unwrap();
        assert_eq!(tables.len(), 3);
        assert_eq!(blue.inventory(&selection()).await.unwrap().owners, ["shop_owner"]);
        examined(&blue, &tables, false).await;
        examined(&green, &tables, false).await;

        if find_program("pg_dump", Some(install.major)).is_some() {
            let schema = PgSchemaCopy::new(blue.clone(), green.clone());
            schema.before_rows(&selection()).await.unwrap();
            schema.after_rows(&selection(), 2, None, false).await.unwrap();
        } else {
            green_place.server.execute("shop", TABLES).await.unwrap();
        }
        assert_eq!(green.inventory(&selection()).await.unwrap().owners, ["shop_owner"]);
        let copies = green.tables(&selection()).await.unwrap();
        assert_eq!(copies.len(), 3);
        for table in &copies {
            green.clear(&run(), table).await.unwrap();
        }
        work_on(&blue, &tables).await;
        work_on(&green, &copies).await;
        examined(&blue, &tables, true).await;
        examined(&green, &copies, true).await;

        leave(&blue).await;
        leave(&green).await;
        drop((blue, green));
        blue_place.follow(&blocks, true).await;
        green_place.follow(&blocks, true).await;
    }
}

#[tokio::test]
async fn the_role_of_the_page_reads_from_a_standby() {
    let blocks = blocks();
    let install = find_postgres().into_iter().next_back().expect("PostgreSQL");
    assert!(install.major >= 16, "no server decodes on a standby");
    let place = Place::with_standby(&install, Side::Blue).await;
    place.server.execute("shop", TABLES).await.unwrap();
    place.follow(&blocks, false).await;
    place.reader.as_ref().unwrap().catch_up(&place.server).await.unwrap();
    let blue = place.database();
    let tables = blue.tables(&selection()).await.unwrap();
    examined(&blue, &tables, false).await;
    work_on(&blue, &tables).await;
    examined(&blue, &tables, true).await;
    drop(blue.snapshot_at_position().await.unwrap());
    drop(blue.stream(&run(), None).await.unwrap());
    leave(&blue).await;
    drop(blue);
    place.follow(&blocks, true).await;
}
