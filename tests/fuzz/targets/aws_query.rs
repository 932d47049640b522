//! Queries of clients: to trees, and to inputs of operations that have a bit of everything.

use aws::autoscaling;
use aws::decode::{Decode, Wire};
use aws::ec2::{
    CreateLaunchTemplateRequest, CreateNetworkAclEntryRequest, DescribeInstancesRequest, RunInstancesRequest,
};
use aws::elbv2;
use aws::member::ANY;
use aws::testing::parse_query;

/// Reads one input as an operation's, and tells what is wrong with it.
pub fn decode<T: Decode>(node: &aws::node::Node<'_>, wire: Wire) {
    if let Err(malformed) = T::decode(node, ANY, wire) {
        let error = malformed.error(wire);
        assert!(error.message.len() < 10_000, "an error repeats a request: {}", error.message.len());
    }
}

pub fn run(data: &[u8]) {
    let Ok(node) = parse_query(data) else { return };
    decode::<RunInstancesRequest>(&node, Wire::Ec2);
    decode::<CreateLaunchTemplateRequest>(&node, Wire::Ec2);
    decode::<CreateNetworkAclEntryRequest>(&node, Wire::Ec2);
    decode::<DescribeInstancesRequest>(&node, Wire::Ec2);
    decode::<autoscaling::CreateAutoScalingGroupType>(&node, Wire::Query);
    decode::<elbv2::CreateListenerInput>(&node, Wire::Query);
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        "MinCount=1&MaxCount=2&BlockDeviceMapping.1.DeviceName=%2Fdev%2Fsda1&BlockDeviceMapping.1.Ebs.VolumeSize=8\
         &NetworkInterface.1.SecurityGroupId.1=sg-1&TagSpecification.1.Tag.1.Key=a&EnclaveOptions.Enabled=false",
        "LaunchTemplateName=a&LaunchTemplateData.NetworkInterface.1.DeviceIndex=0&LaunchTemplateData.UserData=QQ%3D%3D",
        "NetworkAclId=acl-1&RuleNumber=100&Protocol=6&RuleAction=allow&Egress=true&PortRange.From=1&PortRange.To=65535",
        "InstanceId.1=i-1&InstanceId.3=i-2&Filter.1.Name=tag%3Aa&Filter.1.Value.1=b*&MaxResults=5",
        "AutoScalingGroupName=a&MinSize=0&MaxSize=1&Tags.member.1.Key=k&AvailabilityZones=&LoadBalancerNames.member.1=x",
        "LoadBalancerArn=a&DefaultActions.member.1.Type=forward\
         &DefaultActions.member.1.AuthenticateOidcConfig.AuthenticationRequestExtraParams.entry.1.key=k\
         &DefaultActions.member.1.AuthenticateOidcConfig.AuthenticationRequestExtraParams.entry.1.value=v",
    ]
    .map(|query| query.as_bytes().to_vec())
    .to_vec()
}
