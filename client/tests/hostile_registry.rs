//! Registries that send what no registry should.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;

/// A registry that answers `/v2/` and sends without end whatever else it is asked for. Gives its address.
fn endless() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let count = stream.read(&mut request).unwrap_or(0);
                if request[..count].starts_with(b"GET /v2/ ") {
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
                // Ends when the other side has had enough.
                while stream.write_all(&[b' '; 64 << 10]).is_ok() {}
            });
        }
    });
    address
}

#[test]
fn a_manifest_without_an_end_is_given_up_at_the_limit() {
    let output = Command::new(env!("CARGO_BIN_EXE_sealwright"))
        .args(["inspect", &format!("{}/some/image:1", endless())])
        .output()
        .expect("the command starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{text}");
    assert!(text.contains("manifests/1 has more than 4194304 bytes"), "{text}");
}
