//! `key`: the publisher's key.

use clap::Subcommand;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::keys::PublisherKeypair;

/// Show the key that signs what you share
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the public key, its fingerprint and where the secret key lies
    ///
    /// Tell others the fingerprint, so that they can see that a model is yours.
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Prints the key.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let Command::Show { json } = args.command;
    let path = context.config()?.paths().publisher_key();
    if !path.exists() {
        return Err(CommandError::failed(format!("there is no key at {}", path.display()))
            .hint("`silmaril init` makes one"));
    }
    let public = PublisherKeypair::load(&path)?.public();
    let out = &context.out;
    if json {
        return out.json(&serde_json::json!({
            "publisher": public.to_string(),
            "fingerprint": public.fingerprint(),
            "path": path.display().to_string(),
        }));
    }
    out.line(format_args!("fingerprint  {}", public.fingerprint()))?;
    out.line(format_args!("publisher    {public}"))?;
    out.line(format_args!("secret key   {}", path.display()))
}
