//! `hw sample`: a case from records of a real topic.

use std::path::PathBuf;

use clap::Args;
use uuid::Uuid;

use super::{Environment, Failure, runtime};
use crate::authoring::sample;
use crate::diagnose::Problem;
use crate::observe::outages::Outages;
use crate::pipeline_files;
use crate::pipeline_files::catalog::Live;
use crate::say;
use crate::style::{dim, good, name};
use crate::worker::run;

#[derive(Args)]
#[command(after_help = "Fields that the schema marks as personal data are masked: in Avro by the attribute \"pii\": true, in a \
declared `schema` by a type that ends in ` pii`. Equal values get equal masks within one sample, and across samples with the \
same --salt.

Examples:
  hw sample pipeline.yaml --case yesterday --count 50 -c config/production.yaml
  hw sample pipeline.yaml --case yesterday --of customers --salt tuesday
  hw test pipeline.yaml --case yesterday --update     then review the files")]
pub struct SampleArgs {
    /// The pipeline file
    pipeline: PathBuf,
    #[command(flatten)]
    environment: Environment,
    /// Name of the case to write
    #[arg(long)]
    case: String,
    /// The source or table to sample [default: the first source]
    #[arg(long)]
    of: Option<String>,
    /// Number of records
    #[arg(long, default_value_t = 20)]
    count: usize,
    /// Sample the oldest records instead of the newest
    #[arg(long)]
    earliest: bool,
    /// Mask this field, too: `data.customer.email`
    #[arg(long)]
    mask: Vec<String>,
    /// Salt of the masks; the same salt masks equal values alike in all samples [default: random]
    #[arg(long)]
    salt: Option<String>,
}

pub fn run(args: &SampleArgs) -> Result<(), Failure> {
    let loaded = pipeline_files::load(&args.pipeline).map_err(Failure::Wrong)?;
    let config = args.environment.load().map_err(|p| Failure::Wrong(vec![p]))?;
    let runtime = runtime()?;
    let services = run::connect(&config, "hw-sample", None, runtime.handle(), &Outages::default())?;
    let catalog = Live::new(services.broker.clone(), services.subjects.clone());
    let (plan, _) = pipeline_files::make_plan(&loaded, &catalog).map_err(Failure::Wrong)?;
    let wanted = sample::Wanted {
        stream: args.of.clone(),
        count: args.count,
        earliest: args.earliest,
        mask: args.mask.clone(),
        salt: args.salt.clone().unwrap_or_else(|| Uuid::new_v4().to_string()),
    };
    let taken = sample::take(&plan, &loaded.pipeline, services.broker.as_ref(), services.schemas.as_ref(), &wanted);
    let taken = taken.map_err(Problem::plain)?;
    let file = sample::write(&taken, &args.pipeline, &args.case).map_err(Problem::plain)?;
    say!("{} {} records to {}", good("wrote"), taken.lines.len(), name(&file.display().to_string()));
    match taken.masked.as_slice() {
        [] => say!("{}", dim("the schema marks no field as personal data, so nothing was masked")),
        masked => say!("masked: {}", masked.join(", ")),
    }
    if taken.left_out > 0 {
        say!("{} records can't be decoded, and so can't be masked: they were left out", taken.left_out);
    }
    say!("{}", dim(&format!("then: hw test {} --case {} --update", args.pipeline.display(), args.case)));
    Ok(())
}
