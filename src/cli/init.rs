//! `init`: makes the base directory, the configuration file and the publisher's key.

use std::path::{Path, PathBuf};

use crate::cli::cleanup;
use crate::cli::context::{Context, absolute};
use crate::cli::error::CommandError;
use crate::config::Config;
use crate::fsutil;
use crate::model::keys::PublisherKeypair;

const EXAMPLES: &str = "\
Examples:
  silmaril init
  silmaril init --path /srv/silmaril   another base directory
  silmaril init --cleanup              list the files that silmaril made, ask, and delete them";

/// Make the base directory, a configuration file and your publisher's key
///
/// Existing files are kept: running it again changes nothing. The key is never overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Base directory to make and to write into the configuration [default: ~/.silmaril]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Replace the configuration file by one with all defaults
    #[arg(long, conflicts_with = "cleanup")]
    force: bool,
    /// List all files that silmaril made, ask, and delete them
    #[arg(long)]
    cleanup: bool,
    /// With --cleanup: do not ask
    #[arg(long, requires = "cleanup")]
    yes: bool,
}

/// Makes the missing files, or deletes all files that silmaril made.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let mut options = context.load_options();
    let file = Config::config_file(&options)?;
    if args.cleanup {
        return cleanup::run(&Config::load(&options)?.paths(), &file, args.yes, context);
    }
    let path = args.path.as_deref().map(absolute).transpose()?;
    if path.is_some() {
        options.home.clone_from(&path);
    }
    let text = example(path.as_deref())?;
    let existed = file.exists();
    if args.force || !existed {
        fsutil::write_atomic(&file, text.as_bytes(), fsutil::MODE_PRIVATE)
            .map_err(|e| CommandError::io(&file, e))?;
    }
    options.config_path = Some(file.clone());
    let out = &context.out;
    let paths = Config::load(&options)?.paths();
    let had_base = paths.base.exists();
    if let Err(error) = paths.create() {
        if !existed {
            // Otherwise the new configuration would name a directory that cannot be made.
            let _ = std::fs::remove_file(&file);
        }
        return Err(error.into());
    }
    let had_key = paths.publisher_key().exists();
    let key = PublisherKeypair::load_or_create(&paths.publisher_key())?;

    let word = |kept: bool| if kept { "kept" } else { "made" };
    out.line(format_args!("{}  base directory  {}", word(had_base), paths.base.display()))?;
    out.line(format_args!("{}  configuration   {}", word(existed && !args.force), file.display()))?;
    out.line(format_args!("{}  publisher key   {}", word(had_key), paths.publisher_key().display()))?;
    out.line(format_args!("      fingerprint     {}", key.public().fingerprint()))?;
    if let Some(path) = path.filter(|_| existed && !args.force) {
        let set = saved_base(context)?;
        if set != path {
            out.warn(format_args!(
                "{} was kept and has another base directory ({}); change its storage.base_dir, or use --force",
                file.display(),
                set.display()
            ));
        }
    }
    out.note("next: `silmaril share DIR --name ORG/NAME --license ID`, or `silmaril registry import FILE`");
    Ok(())
}

/// The base directory without `--path` and `--home`.
fn saved_base(context: &Context) -> Result<PathBuf, CommandError> {
    let mut options = context.load_options();
    options.home = None;
    Ok(Config::load(&options)?.storage.base_dir)
}

/// The example configuration with its comments, with `base` as the base directory if it is given.
fn example(base: Option<&Path>) -> Result<String, CommandError> {
    let base = base.map(|base| {
        base.to_str().ok_or_else(|| {
            CommandError::usage(format!("{} is not UTF-8 and cannot be configured", base.display()))
        })
    });
    Ok(Config::example(base.transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoadOptions;

    #[test]
    fn base_directory_survives_a_round_trip_through_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        for base in ["/srv/silmaril", "/srv/with space: and \"quotes\" # too"] {
            std::fs::write(&file, example(Some(Path::new(base))).unwrap()).unwrap();
            let options = LoadOptions { config_path: Some(file.clone()), home: None };
            let config = Config::load(&options).unwrap();
            assert_eq!(config.storage.base_dir, Path::new(base));
            assert_eq!(config.storage.models_dir, Path::new(base).join("models"));
        }
    }
}
