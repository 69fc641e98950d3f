//! The real `opa`, as a server on a socket of its own.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// Asks for many inputs at once: one HTTP request for each would be most of the time.
const BATCH: &str = "package batch\n\nanswers := [a | some one in input.inputs; a := data.t.answer with input as one]\n";

/// What stands in the place of an answer where OPA itself fails.
pub(super) const PANIC: &str = "OPA ended the connection";

pub(super) struct Opa {
    child: Child,
    socket: PathBuf,
    _folder: TempDir,
}

impl Drop for Opa {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Opa {
    pub(super) fn start(program: &Path, data: &Json) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("opa.sock");
        fs::write(folder.path().join("batch.rego"), BATCH).unwrap();
        fs::write(folder.path().join("data.json"), data.to_string()).unwrap();
        let child = Command::new(program)
            .args(["run", "--server", "--log-level=error", "--disable-telemetry", "--addr"])
            .arg(format!("unix://{}", socket.display()))
            .args([folder.path().join("batch.rego"), folder.path().join("data.json")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let opa = Self { child, socket, _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&opa.socket).is_err() {
            assert!(Instant::now() < deadline, "opa does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        opa
    }

    /// The status and the document of one request.
    fn call(&self, method: &str, path: &str, body: &str) -> (u16, Json) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        // Under HTTP/1.0 an answer comes in one piece and ends with the connection.
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: opa\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        // Where it panics it ends the connection.
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { return (0, Json::from(PANIC)) };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Json::Null))
    }

    /// Puts the modules in force, in this order; the answer is what OPA's compiler says against them.
    pub(super) fn load(&self, modules: &[(String, String)]) -> Result<(), String> {
        for (name, _) in modules.iter().rev() {
            self.call("DELETE", &format!("/v1/policies/{name}"), "");
        }
        for (name, text) in modules {
            let (status, answer) = self.call("PUT", &format!("/v1/policies/{name}"), text);
            if status != 200 {
                return Err(answer.to_string());
            }
        }
        Ok(())
    }

    /// The answer for each input; `Err` is an error of the evaluation.
    pub(super) fn answers(&self, inputs: &[Json]) -> Vec<Result<Json, String>> {
        let (status, answer) = self.call("POST", "/v1/data/batch/answers", &json!({"input": {"inputs": inputs}}).to_string());
        if let (200, Some(answers)) = (status, answer["result"].as_array())
            && answers.len() == inputs.len()
        {
            return answers.iter().cloned().map(Ok).collect();
        }
        inputs.iter().map(|input| self.answer(input)).collect()
    }

    fn answer(&self, input: &Json) -> Result<Json, String> {
        let (status, answer) = self.call("POST", "/v1/data/t/answer", &json!({"input": input}).to_string());
        if status == 200 { Ok(answer["result"].clone()) } else { Err(answer.to_string()) }
    }
}
