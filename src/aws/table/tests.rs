//! Inputs to answers, without HTTP and signatures around them: EC2's queries through the table.

use std::sync::Mutex;

use super::*;
use crate::ec2::{self, Region};
use crate::filters::{Filtered, Filters, Values};
use crate::page::Page;
use crate::query;
use crate::service::Idempotent as _;
use crate::sts;

/// What handlers were called with.
type Log = std::sync::Arc<Mutex<Vec<String>>>;

impl Filtered for Region {
    const NAMES: &'static [&'static str] = &["region-name"];

    fn values(&self, _: &str, values: &mut Values<'_>) {
        values.text(self.region_name.as_deref().unwrap_or_default());
    }

    fn tags(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        None::<std::iter::Empty<_>>
    }
}

fn regions(_: Log, call: Call<ec2::DescribeRegionsRequest>) -> Result<ec2::DescribeRegionsResult, Error> {
    let filters = Filters::of_ec2::<Region>(&call.input.filters)?;
    let all = ["eu-west-1", "us-east-1", "us-east-2"];
    let all = all.map(|name| Region { region_name: Some(name.to_owned()), ..Default::default() });
    Ok(ec2::DescribeRegionsResult {
        regions: Some(all.into_iter().filter(|region| filters.admit(region)).collect()),
    })
}

async fn delete(log: Log, call: Call<ec2::DeleteVolumeRequest>) -> Result<crate::service::Empty, Error> {
    log.lock().unwrap().push(format!("delete {}", call.input.volume_id));
    Ok(crate::service::Empty)
}

fn run_instances(log: Log, call: Call<ec2::RunInstancesRequest>) -> Result<ec2::Reservation, Error> {
    let token = ec2::RunInstances::client_token(&call.input).map(str::to_owned);
    let names: Vec<Option<String>> =
        call.input.block_device_mappings.into_iter().map(|mapping| mapping.device_name).collect();
    log.lock().unwrap().push(format!("run {} {token:?} {names:?}", call.input.min_count));
    Ok(ec2::Reservation::default())
}

fn volumes(_: Log, call: Call<ec2::DescribeVolumesRequest>) -> Result<ec2::DescribeVolumesResult, Error> {
    let page = Page::of::<ec2::DescribeVolumes>(&call)?;
    let all = (0..12).map(|number| format!("vol-{number:02}"));
    let (ids, next_token) = page.take(all, |id| id.clone());
    let volume = |id| ec2::Volume { volume_id: Some(id), ..Default::default() };
    Ok(ec2::DescribeVolumesResult { volumes: Some(ids.into_iter().map(volume).collect()), next_token })
}

fn templates(
    _: Log,
    call: Call<ec2::DescribeLaunchTemplatesRequest>,
) -> Result<ec2::DescribeLaunchTemplatesResult, Error> {
    Page::of::<ec2::DescribeLaunchTemplates>(&call)?;
    Ok(ec2::DescribeLaunchTemplatesResult::default())
}

fn table() -> Table<Log> {
    Table::new()
        .serve_now::<ec2::DescribeRegions>(regions)
        .serve::<ec2::DeleteVolume>(delete)
        .serve_now::<ec2::RunInstances>(run_instances)
        .serve_now::<ec2::DescribeVolumes>(volumes)
        .serve_now::<ec2::DescribeLaunchTemplates>(templates)
}

/// Status and body of the answer to a query of `account`.
fn ask_as(account: &str, log: &Log, name: &str, query: &str) -> (u16, String) {
    let caller = Caller {
        access_key: "AKIDEXAMPLE".to_owned(),
        account: account.into(),
        arn: "arn".into(),
        user_id: "id".into(),
        region: "us-east-1".to_owned(),
    };
    let exchange = Exchange { protocol: Protocol::Ec2, caller, request_id: RequestId::generate() };
    let mut params = Vec::new();
    query::parse(query.as_bytes(), &mut params).unwrap();
    let node = query::tree(params).unwrap();
    let answer = match table().run(&ec2::SERVICE, name, log.clone(), &node, exchange) {
        Ok(Reply::Now(answer)) => answer,
        Ok(Reply::Later(future)) => {
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
        }
        Err(error) => return (error.status, error.to_string()),
    };
    (answer.status, String::from_utf8(answer.body).unwrap())
}

fn ask(name: &str, query: &str) -> (u16, String) {
    ask_as("123456789012", &Log::default(), name, query)
}

#[track_caller]
fn assert_error(name: &str, query: &str, code: &str, message: &str) {
    let (status, body) = ask(name, query);
    assert!(status >= 400, "{body}");
    assert!(body.contains(&format!("<Code>{code}</Code><Message>{message}</Message>")), "{query}: {body}");
}

#[test]
fn an_output_is_xml_in_ec2s_envelope() {
    let (status, body) = ask("DescribeRegions", "Filter.1.Name=region-name&Filter.1.Value.1=us-*-1");
    assert_eq!(status, 200);
    let (head, rest) = body.split_once("<requestId>").unwrap();
    assert_eq!(
        head,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <DescribeRegionsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">"
    );
    assert_eq!(
        rest.split_once("</requestId>").unwrap().1,
        "<regionInfo><item><regionName>us-east-1</regionName></item></regionInfo></DescribeRegionsResponse>"
    );
}

#[test]
fn an_operation_without_output_returns_true() {
    let log = Log::default();
    let (status, body) = ask_as("1", &log, "DeleteVolume", "VolumeId=vol-1&DryRun=false");
    assert_eq!(status, 200);
    assert!(body.ends_with("</requestId><return>true</return></DeleteVolumeResponse>"), "{body}");
    assert_eq!(*log.lock().unwrap(), ["delete vol-1"]);
}

#[test]
fn a_dry_run_reaches_no_handler() {
    let log = Log::default();
    let (status, body) = ask_as("1", &log, "DeleteVolume", "VolumeId=vol-1&DryRun=true");
    assert_eq!(status, 412);
    assert!(body.contains("<Code>DryRunOperation</Code>"), "{body}");
    assert!(log.lock().unwrap().is_empty());
    // An input is read before: what is wrong with it is told all the same.
    assert_error(
        "DeleteVolume",
        "DryRun=true",
        "MissingParameter",
        "The request must contain the parameter VolumeId",
    );
}

#[test]
fn elements_have_the_order_of_their_numbers_and_may_leave_some_out() {
    let log = Log::default();
    let query = "MinCount=1&MaxCount=1&ClientToken=t&BlockDeviceMapping.10.DeviceName=c&BlockDeviceMapping.9.DeviceName=b\
                 &BlockDeviceMapping.2.DeviceName=a";
    ask_as("1", &log, "RunInstances", query);
    assert_eq!(*log.lock().unwrap(), [r#"run 1 Some("t") [Some("a"), Some("b"), Some("c")]"#]);
    for name in
        ["BlockDeviceMapping.01.DeviceName", "BlockDeviceMapping.0.DeviceName", "BlockDeviceMapping.x"]
    {
        let parts: Vec<&str> = name.split('.').take(2).collect();
        let message = format!("The parameter {} is not recognized", parts.join("."));
        assert_error(
            "RunInstances",
            &format!("MinCount=1&MaxCount=1&{name}=a"),
            "UnknownParameter",
            &message,
        );
    }
}

#[test]
fn what_is_wrong_is_told_by_the_parameters_name() {
    let with = |more: &str| format!("MinCount=1&MaxCount=1&{more}");
    for (more, code, message) in [
        ("Colour=red", "UnknownParameter", "The parameter Colour is not recognized"),
        ("Placement.Colour=red", "UnknownParameter", "The parameter Placement.Colour is not recognized"),
        (
            "BlockDeviceMapping.1.Ebs.VolumeSize=big",
            "InvalidParameterValue",
            "Value (big) for parameter BlockDeviceMapping.1.Ebs.VolumeSize is invalid. It must be a whole number.",
        ),
        (
            "BlockDeviceMapping.1.Ebs.VolumeSize=3000000000",
            "InvalidParameterValue",
            "Value (3000000000) for parameter BlockDeviceMapping.1.Ebs.VolumeSize is invalid. \
             Expecting a value between -2147483648 and 2147483647.",
        ),
        (
            "Placement.Tenancy=shared",
            "InvalidParameterValue",
            "Value (shared) for parameter Placement.Tenancy is invalid. It must be one of default, dedicated, host.",
        ),
        (
            "EbsOptimized=True",
            "InvalidParameterValue",
            "Value (True) for parameter EbsOptimized is invalid. It must be true or false.",
        ),
        (
            "Placement=a",
            "InvalidParameterValue",
            "Value (a) for parameter Placement is invalid. It must be a structure.",
        ),
        (
            "ImageId.1=a",
            "InvalidParameterValue",
            "Value () for parameter ImageId is invalid. It must be text.",
        ),
        (
            "Ipv6AddressCount=1",
            "UnsupportedOperation",
            "nimbo does not serve the parameter Ipv6AddressCount.",
        ),
        (
            "NetworkInterface.1.Ipv6AddressCount=1",
            "UnsupportedOperation",
            "nimbo does not serve the parameter NetworkInterface.1.Ipv6AddressCount.",
        ),
        (
            "EnclaveOptions.Enabled=true",
            "UnsupportedOperation",
            "nimbo does not serve the parameter EnclaveOptions.",
        ),
    ] {
        assert_error("RunInstances", &with(more), code, message);
    }
    assert_error(
        "RunInstances",
        "MinCount=1",
        "MissingParameter",
        "The request must contain the parameter MaxCount",
    );
}

#[test]
fn what_is_declined_needs_not_be_served() {
    for declined in ["EnclaveOptions.Enabled=false", "HibernationOptions.Configured=false", "AdditionalInfo="]
    {
        let (status, body) = ask("RunInstances", &format!("MinCount=1&MaxCount=1&{declined}"));
        assert_eq!(status, 200, "{body}");
    }
}

#[test]
fn an_unknown_filter_is_told() {
    assert_error(
        "DescribeRegions",
        "Filter.1.Name=colour&Filter.1.Value.1=red",
        "InvalidParameterValue",
        "The filter 'colour' is invalid",
    );
}

fn volume_ids(body: &str) -> Vec<&str> {
    body.split("<volumeId>")
        .skip(1)
        .filter_map(|rest| rest.split_once("</volumeId>"))
        .map(|(id, _)| id)
        .collect()
}

fn next_token(body: &str) -> Option<&str> {
    Some(body.split_once("<nextToken>")?.1.split_once("</nextToken>")?.0)
}

#[test]
fn pages_are_the_whole_in_parts() {
    let (_, whole) = ask("DescribeVolumes", "");
    assert_eq!(volume_ids(&whole).len(), 12);
    assert_eq!(next_token(&whole), None);
    let mut found = Vec::new();
    let mut query = "MaxResults=5".to_owned();
    for count in [5, 5, 2] {
        let (status, body) = ask("DescribeVolumes", &query);
        assert_eq!((status, volume_ids(&body).len()), (200, count), "{body}");
        found.extend(volume_ids(&body).into_iter().map(str::to_owned));
        match next_token(&body) {
            Some(token) => query = format!("MaxResults=5&NextToken={token}"),
            None => assert_eq!(count, 2),
        }
    }
    assert_eq!(found, volume_ids(&whole));
}

#[test]
fn a_token_is_of_one_operation_and_account() {
    let (_, body) = ask("DescribeVolumes", "MaxResults=5");
    let token = next_token(&body).unwrap();
    let query = format!("NextToken={token}");
    let (status, _) = ask_as("210987654321", &Log::default(), "DescribeVolumes", &query);
    assert_eq!(status, 400);
    for token in ["x", "%00", "AAAAAAAAAAAAAAAA", &token[1..], &format!("{token}A")] {
        let message = "Unable to parse pagination token";
        assert_error("DescribeVolumes", &format!("NextToken={token}"), "InvalidParameterValue", message);
    }
    for (limit, expected) in [(4, "greater than 5"), (1001, "less than or equal to 1000")] {
        let message =
            format!("Value ( {limit} ) for parameter maxResults is invalid. Expecting a value {expected}.");
        assert_error("DescribeVolumes", &format!("MaxResults={limit}"), "InvalidParameterValue", &message);
    }
}

#[test]
fn a_limit_is_that_of_the_model_where_it_tells_one() {
    assert_eq!(ask("DescribeLaunchTemplates", "MaxResults=1").0, 200);
    let message = "Value (201) for parameter MaxResults is invalid. Expecting a value between 1 and 200.";
    assert_error("DescribeLaunchTemplates", "MaxResults=201", "InvalidParameterValue", message);
}

#[test]
fn what_is_not_served_is_told_from_what_is_not_there() {
    let (status, told) = ask("DescribeFleets", "");
    assert_eq!(
        (status, told.as_str()),
        (400, "UnsupportedOperation: nimbo does not serve the operation DescribeFleets of EC2.")
    );
    // It has types, and no handler.
    let (_, told) = ask("StopInstances", "InstanceId.1=i-1");
    assert!(told.starts_with("UnsupportedOperation"), "{told}");
    let (status, told) = ask("DescribeColours", "");
    assert_eq!(
        (status, told.as_str()),
        (400, "InvalidAction: The action DescribeColours is not valid for this web service.")
    );
}

#[test]
fn coverage_is_of_all_operations_of_services_in_the_table() {
    let identity =
        |_: Log, _: Call<sts::GetCallerIdentityRequest>| Ok(sts::GetCallerIdentityResponse::default());
    let coverage = table().serve_now::<sts::GetCallerIdentity>(identity).coverage();
    let served = |at: usize| coverage[at].operations.values().filter(|is_served| **is_served).count();
    assert_eq!((coverage[0].service, served(0)), ("EC2", 5));
    assert_eq!((coverage[1].service, served(1)), ("STS", 1));
    assert_eq!(coverage[0].operations.get("DescribeFleets"), Some(&false));
    assert_eq!(coverage[0].operations.get("StopInstances"), Some(&false));
    assert!(coverage[0].operations.len() > 800);
}
