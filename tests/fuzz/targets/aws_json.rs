//! JSON of clients: to trees and inputs. What is an input is written again as another that is the same.

use aws::decode::{Decode, Wire};
use aws::encode::Encode;
use aws::member::ANY;
use aws::testing::cloudwatch::{DescribeAlarmsInput, PutMetricAlarmInput, PutMetricDataInput};
use aws::testing::efs::{CreateAccessPointRequest, CreateFileSystemRequest};
use aws::testing::{from_json, parse_json, to_json};

use super::aws_query::decode;

fn again<T: Decode + Encode + PartialEq + std::fmt::Debug>(node: &aws::node::Node<'_>) {
    decode::<T>(node, Wire::Json);
    let Ok(value) = T::decode(node, ANY, Wire::Json) else { return };
    // Fractions below a millisecond are not written, so the first time is not compared.
    let once: T = from_json(&to_json(&value)).expect("what was written is an input");
    let twice: T = from_json(&to_json(&once)).expect("what was written is an input");
    assert_eq!(once, twice);
}

pub fn run(data: &[u8]) {
    let Ok(node) = parse_json(data) else { return };
    again::<PutMetricAlarmInput>(&node);
    again::<PutMetricDataInput>(&node);
    again::<DescribeAlarmsInput>(&node);
    again::<CreateFileSystemRequest>(&node);
    again::<CreateAccessPointRequest>(&node);
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        r#"{"AlarmName":"a","EvaluationPeriods":1,"ComparisonOperator":"LessThanThreshold","Threshold":1.5,"Tags":[{"Key":"a","Value":"b"}]}"#,
        r#"{"Namespace":"n","MetricData":[{"MetricName":"m","Timestamp":1440938160.5,"Value":1,"Values":[1e3,-2],"Dimensions":[{"Name":"a","Value":"b"}]}]}"#,
        r#"{"AlarmNames":["a","\u00e9\ud83d\ude00"],"MaxRecords":100,"StateValue":"OK"}"#,
        r#"{"CreationToken":"t","Encrypted":true,"Tags":[{"Key":"Name","Value":null}],"Backup":false}"#,
        r#"{"ClientToken":"t","FileSystemId":"fs-1","PosixUser":{"Uid":1,"Gid":2,"SecondaryGids":[3]},"RootDirectory":{"Path":"/"}}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
