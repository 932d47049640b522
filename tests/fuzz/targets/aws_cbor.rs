//! CBOR of clients: to trees and inputs.

use aws::decode::Wire;
use aws::testing::cloudwatch::{
    DescribeAlarmsInput, GetMetricDataInput, PutMetricAlarmInput, PutMetricDataInput,
};
use aws::testing::parse_cbor;

use super::aws_query::decode;

pub fn run(data: &[u8]) {
    let Ok(node) = parse_cbor(data) else { return };
    decode::<PutMetricAlarmInput>(&node, Wire::Cbor);
    decode::<PutMetricDataInput>(&node, Wire::Cbor);
    decode::<GetMetricDataInput>(&node, Wire::Cbor);
    decode::<DescribeAlarmsInput>(&node, Wire::Cbor);
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        b"\xa2\x6aAlarmNames\x82\x61a\x61b\x6aMaxRecords\x18\x64".as_slice(),
        b"\xbf\x69Namespace\x61n\x6aMetricData\x9f\xbf\x6aMetricName\x7f\x61m\x61n\xff\x65Value\xf9\x3c\x00\x69Timestamp\xc1\x1a\x55\xe2\xf7\x30\xff\xff\xff",
        b"\xa3\x69StartTime\xc1\xfb\x41\xd5\x78\xbd\xcc\x20\x00\x00\x67EndTime\xc1\x1a\x55\xe2\xf7\x30\x71MetricDataQueries\x81\xa1\x62Id\x61q",
        b"\xa4\x69AlarmName\x61a\x71EvaluationPeriods\x01\x72ComparisonOperator\x71LessThanThreshold\x69Threshold\x20",
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}
