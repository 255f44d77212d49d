//! `env`: the variables with which programs use the endpoint or a mount.

use clap::ValueEnum;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::shell_quoted;
use crate::cli::session::with_daemon;
use crate::node::control::Status;

const EXAMPLES: &str = "\
Examples:
  eval \"$(silmaril env)\"             sh, bash, zsh
  silmaril env --shell fish | source
  silmaril env                       show the variables";

/// A shell, for the syntax of its variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// sh, bash, zsh and other POSIX shells.
    Sh,
    /// fish.
    Fish,
}

/// Print the variables with which a shell uses the endpoint
///
/// HF_ENDPOINT is the address of the endpoint that the daemon serves now. With `serve.token`, HF_TOKEN is that token. A
/// proxy of the environment is not used for the endpoint.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The syntax
    #[arg(long, value_enum, default_value_t = Shell::Sh)]
    shell: Shell,
}

/// Prints one line for each variable.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let status = with_daemon(context, async |daemon, signals| {
        signals.unless(async { Ok(daemon.client.status().await?) }).await
    })?;
    let token = context.config()?.serve.token;
    for (name, value) in variables(&status, token.as_ref().map(|token| token.secret()))? {
        let value = shell_quoted(value);
        context.out.line(match args.shell {
            Shell::Sh => format!("export {name}={value}"),
            Shell::Fish => format!("set -gx {name} {value}"),
        })?;
    }
    Ok(())
}

fn variables(status: &Status, token: Option<&str>) -> Result<Vec<(&'static str, String)>, CommandError> {
    let Some(endpoint) = &status.endpoint else {
        let error = match &status.endpoint_problem {
            Some(problem) => CommandError::failed(format!("the endpoint is not served: {problem}")),
            None => CommandError::failed("no endpoint is served"),
        };
        return Err(error.hint("start it: silmaril serve"));
    };
    let mut all = vec![("HF_ENDPOINT", endpoint.url.clone())];
    all.extend(token.filter(|_| endpoint.token).map(|token| ("HF_TOKEN", token.to_owned())));
    let proxied = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    if proxied.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
        let host = endpoint.url.trim_start_matches("http://");
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        for name in ["no_proxy", "NO_PROXY"] {
            let now = std::env::var(name).unwrap_or_default();
            let is_listed = now.split(',').any(|entry| entry.trim() == host || entry.trim() == "*");
            let value = if now.is_empty() { host.to_owned() } else { format!("{now},{host}") };
            all.extend((!is_listed).then_some((name, value)));
        }
    }
    Ok(all)
}
