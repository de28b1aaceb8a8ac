//! Certificates, judged by a client that is not ours.

use cutover_sandbox::{PgOptions, Postgres, TlsOptions};

use crate::{install, run};

async fn server(tls: TlsOptions) -> Postgres {
    Postgres::start(&install(), PgOptions::new().tls(tls)).await.unwrap()
}

/// Whether openssl, asked to be strict, accepts the server under this address.
async fn accepted(server: &Postgres, check: &[&str]) -> (bool, String) {
    let address = format!("127.0.0.1:{}", server.port());
    let ca = server.ca_file().unwrap().to_str().unwrap().to_owned();
    let mut arguments = vec!["s_client", "-starttls", "postgres", "-connect", &address];
    arguments.extend(["-CAfile", &ca, "-verify_return_error"]);
    arguments.extend(check);
    run("openssl", &arguments).await
}

#[tokio::test]
async fn the_certificate_is_good_for_the_loopback_names_and_no_other() {
    let server = server(TlsOptions::default()).await;
    for (check, expected) in [
        (["-verify_ip", "127.0.0.1"], true),
        (["-verify_hostname", "localhost"], true),
        (["-verify_ip", "127.0.0.2"], false),
        (["-verify_hostname", "other.example"], false),
    ] {
        let (good, words) = accepted(&server, &check).await;
        assert_eq!(good, expected, "{check:?}: {words}");
    }
    // Plain connections are still allowed.
    server.execute("postgres", "select 1").await.unwrap();
}

#[tokio::test]
async fn the_certificate_of_another_server_is_not_trusted() {
    let (one, two) = tokio::join!(server(TlsOptions::default()), server(TlsOptions::default()));
    let address = format!("127.0.0.1:{}", one.port());
    let wrong = two.ca_file().unwrap().to_str().unwrap();
    let arguments = ["s_client", "-starttls", "postgres", "-connect", &address, "-CAfile", wrong];
    let (good, words) = run("openssl", &[&arguments[..], &["-verify_return_error"]].concat()).await;
    assert!(!good, "{words}");
}

#[tokio::test]
async fn names_can_be_chosen() {
    let names = vec!["DNS:db.example".to_owned()];
    let server = server(TlsOptions { names, ..TlsOptions::default() }).await;
    assert!(accepted(&server, &["-verify_hostname", "db.example"]).await.0);
    assert!(!accepted(&server, &["-verify_ip", "127.0.0.1"]).await.0);
}

#[tokio::test]
async fn a_certificate_may_sign_itself() {
    let server = server(TlsOptions { self_signed: true, ..TlsOptions::default() }).await;
    let certificate = std::fs::read(server.data_dir().join("server.crt")).unwrap();
    assert_eq!(certificate, std::fs::read(server.ca_file().unwrap()).unwrap());
    let (good, words) = accepted(&server, &["-verify_ip", "127.0.0.1"]).await;
    assert!(good, "{words}");
}

#[tokio::test]
async fn required_tls_refuses_a_plain_session() {
    let mut server = server(TlsOptions { required: true, ..TlsOptions::default() }).await;
    let error = server.execute("postgres", "select 1").await.unwrap_err().to_string();
    assert!(error.contains("no pg_hba.conf entry"), "{error}");
    assert!(accepted(&server, &["-verify_ip", "127.0.0.1"]).await.0);
    server.restart().await.unwrap();
    assert!(accepted(&server, &["-verify_ip", "127.0.0.1"]).await.0);
}
