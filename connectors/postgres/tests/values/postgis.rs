//! Geometry where PostGIS is installed.

use cutover_core::{
    model::{finding::Scope, selection::Selection, side::Side},
    port::{
        copy::CopyFormat,
        examine::{Examine, Question},
        schema::SchemaCopy,
        source::Source,
    },
};
use cutover_postgres::schema::PgSchemaCopy;

use crate::{
    journey::apply,
    random::{Random, seed},
    world::{Pair, servers},
};

/// Every kind of geometry, with and without further dimensions, bounds of its own on some.
const SHAPES: [&str; 14] = [
    "POINT(1.5 -2)",
    "POINT EMPTY",
    "POINT Z (1e-300 2 3)",
    "POINT ZM (0.1 0.2 0.3 0.4)",
    "LINESTRING(0 0, 1 1, 1e15 -1e15)",
    "POLYGON((0 0, 0 9, 9 9, 9 0, 0 0), (1 1, 1 2, 2 2, 2 1, 1 1))",
    "MULTIPOINT M (0 0 1, 5 5 2)",
    "MULTILINESTRING((0 0, 1 1), (2 2, 3 3))",
    "MULTIPOLYGON(((0 0, 0 1, 1 1, 0 0)), ((5 5, 5 6, 6 6, 5 5)))",
    "GEOMETRYCOLLECTION(POINT(1 2), LINESTRING(0 0, 1 1))",
    "CIRCULARSTRING(0 0, 1 1, 2 0)",
    "COMPOUNDCURVE(CIRCULARSTRING(0 0, 1 1, 1 0), (1 0, 0 1))",
    "TIN(((0 0 0, 0 0 1, 0 1 0, 0 0 0)))",
    "POLYHEDRALSURFACE(((0 0 0, 0 0 1, 0 1 1, 0 1 0, 0 0 0)))",
];

const DDL: &str = "
    CREATE TABLE app.g (id int PRIMARY KEY, g geometry, p geometry(Point, 4326), a geometry[],
      e geography, o geography(Point, 4326), b box2d, c box3d, v text);
    CREATE INDEX ON app.g USING gist (g); CREATE INDEX ON app.g USING gist (e);
    CREATE TABLE app.f (g geometry, n int);
    ALTER TABLE app.f REPLICA IDENTITY FULL";

fn rows(first: usize) -> String {
    let one = |(i, shape): (usize, &&str)| {
        let id = first + i;
        let srid = ["0", "4326", "3857", "990001"][i % 4];
        format!(
            "INSERT INTO app.g SELECT {id}, x, ST_SetSRID(ST_MakePoint({id} % 170, -{id} % 80), 4326),
               ARRAY[x, NULL], CASE WHEN {i} IN (0, 5, 7) THEN ST_SetSRID(x, 4326)::geography END,
               ST_SetSRID(ST_MakePoint({id} % 170, 3), 4326), x::box2d, x::box3d, 'v'
               FROM (SELECT ST_GeomFromEWKT('SRID={srid};{shape}') AS x) AS one;
             INSERT INTO app.f SELECT g, id FROM app.g, generate_series(1, 2) WHERE id = {id}"
        )
    };
    SHAPES.iter().enumerate().map(one).collect::<Vec<_>>().join(";")
}

const RASTER: &str = "
    CREATE TABLE app.r (id int PRIMARY KEY, r raster);
    INSERT INTO app.r SELECT i, ST_AddBand(ST_MakeEmptyRaster(i, i, 0.5, 0.5, 1, -1, 0, 0, 4326),
      '8BUI'::text, i, 0) FROM generate_series(1, 30) i";

/// The large values of the first ones are not sent again; the raster is.
const CHANGES: &str = "
    UPDATE app.g SET v = 'w' WHERE id % 2 = 0;
    UPDATE app.g SET g = ST_Translate(g, 1, 1), e = NULL WHERE id % 3 = 0;
    UPDATE app.g SET id = id + 1000, a = a || g WHERE id % 5 = 0;
    DELETE FROM app.g WHERE id % 7 = 1;
    INSERT INTO app.g (id, g) SELECT 5000, ST_Buffer(ST_MakePoint(0, 0), 1, 5000);
    UPDATE app.g SET v = 'large' WHERE id = 5000;
    UPDATE app.f SET n = n + 1000 WHERE ctid IN (SELECT min(ctid) FROM app.f GROUP BY n);
    DELETE FROM app.f WHERE n % 3 = 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn geometry_travels_where_postgis_is_installed() {
    let mut random = Random::new(seed());
    let mut tried = 0;
    for server in servers().await.values() {
        let has = async |name: &str| {
            let sql = format!("SELECT 1 FROM pg_available_extensions WHERE name = '{name}'");
            server.query_text("postgres", &sql).await.unwrap().is_some()
        };
        if !has("postgis").await {
            continue;
        }
        tried += 1;
        let pair = Pair::with((server, ""), (server, "")).await;
        let raster = has("postgis_raster").await;
        pair.blue.sql("CREATE SCHEMA gis; CREATE EXTENSION postgis SCHEMA gis").await;
        if raster {
            pair.blue.sql("CREATE EXTENSION postgis_raster SCHEMA gis").await;
        }
        let client = pair.blue.connect().await;
        let writes = async |sql: &str| {
            client.batch_execute("SET search_path = app, gis, public").await.unwrap();
            client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{e:?}: {sql}"));
        };
        writes(DDL).await;
        if raster {
            writes(RASTER).await;
        } else {
            eprintln!("skipped: postgis_raster on PostgreSQL {}", server.major());
        }
        // A coordinate system of the user, in a table of the extension: not moved, and said.
        let question = Question {
            run: pair.run.clone(),
            side: Side::Blue,
            scope: Scope::Start,
            selection: Selection::default(),
            tables: pair.blue.tables().await,
            owners: Vec::new(),
            owned_in: Vec::new(),
            schema_owners: Default::default(),
            belongings: Vec::new(),
            forced: Vec::new(),
            owns_writes: true,
            resuming: false,
            copies_schema: true,
            workers: 1,
        };
        let said = async || -> Vec<String> {
            let found = pair.blue.db.examine(&question).await.unwrap();
            found.into_iter().filter(|f| f.code == "CUT0182").map(|f| f.remedy).collect()
        };
        assert_eq!(said().await, [""; 0]);
        let mine = "INSERT INTO spatial_ref_sys VALUES (990001, 'mine', 1, 'LOCAL_CS[\"x\"]', '+proj=longlat')";
        writes(mine).await;
        assert!(said().await[0].contains("COPY gis.spatial_ref_sys FROM STDIN on green"));
        assert!(
            pair.blue
                .db
                .tables(&Selection::default())
                .await
                .unwrap()
                .iter()
                .all(|t| t.name.schema == "app")
        );
        writes(&rows(0)).await;

        pair.green.sql("DROP SCHEMA app, log, ext CASCADE").await;
        let copy = PgSchemaCopy::new(pair.blue.db.clone(), pair.green.db.clone());
        let all = Selection::default();
        copy.before_rows(&all).await.unwrap();
        // The remedy.
        let green = pair.green.connect().await;
        green.batch_execute("SET search_path = gis").await.unwrap();
        green.batch_execute(mine).await.unwrap();
        let (snapshot, mut pump) = pair.follow().await;
        for table in pair.blue.tables().await {
            pair.copy(&*snapshot, &table, CopyFormat::PostgresText).await.unwrap();
            pair.assert_equal(&table, "copied").await;
        }
        drop(snapshot);
        copy.after_rows(&all, 1, None, false).await.unwrap();

        let mut writer = pair.writer().await;
        for sql in [&rows(100), CHANGES] {
            writes(sql).await;
            let events = pair.changes(&mut pump).await;
            apply(&mut *writer, &events, &mut random, "geometry").await;
        }
        if raster {
            writes("UPDATE app.r SET r = ST_AddBand(r, '32BF'::text, 1.5, NULL) WHERE id > 20")
                .await;
            let events = pair.changes(&mut pump).await;
            apply(&mut *writer, &events, &mut random, "raster").await;
        }
        for table in pair.blue.tables().await {
            pair.assert_equal(&table, "followed").await;
        }
        drop(writer);
        Source::release(&pair.blue.db, &pair.run).await.unwrap();
    }
    if tried == 0 {
        eprintln!("skipped: PostGIS is on no server of this machine");
    }
}
