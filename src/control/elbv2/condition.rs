//! Conditions of rules, on the wire and as they are kept.

use aws::{Error, elbv2};
use balancer::config::{Condition, QueryPattern};

use super::errors::validation;

/// What a request says of conditions.
///
/// # Errors
/// When it is not clear what is meant. Whether it can be served is checked with the rule.
pub(super) fn read(conditions: &[elbv2::RuleCondition]) -> Result<Vec<Condition>, Error> {
    conditions.iter().map(read_one).collect()
}

fn read_one(condition: &elbv2::RuleCondition) -> Result<Condition, Error> {
    let field =
        condition.field.as_deref().ok_or_else(|| validation("A condition field must be specified"))?;
    // Two kinds can have their values beside the configuration, as the API first had it.
    let plain = condition.values.as_ref();
    let values = |of: Option<&Vec<String>>, plain: Option<&Vec<String>>| match (of, plain) {
        (Some(values), None) | (None, Some(values)) if !values.is_empty() => Ok(values.clone()),
        (Some(one), Some(other)) if one == other && !one.is_empty() => Ok(one.clone()),
        (Some(_), Some(_)) => {
            Err(validation(format!("Only one of Values and the configuration of '{field}' can be specified")))
        }
        _ => Err(validation(format!("A value of the condition '{field}' must be specified"))),
    };
    Ok(match field {
        "host-header" => {
            let of = condition.host_header_config.as_ref().and_then(|config| config.values.as_ref());
            Condition::HostHeader(values(of, plain)?)
        }
        "path-pattern" => {
            let of = condition.path_pattern_config.as_ref().and_then(|config| config.values.as_ref());
            Condition::PathPattern(values(of, plain)?)
        }
        "http-header" => {
            let config = condition.http_header_config.as_ref();
            let name = config.and_then(|config| config.http_header_name.clone());
            let name = name.ok_or_else(|| validation("The name of a header field must be specified"))?;
            Condition::HttpHeader {
                name,
                values: values(config.and_then(|config| config.values.as_ref()), None)?,
            }
        }
        "http-request-method" => {
            let of = condition.http_request_method_config.as_ref().and_then(|config| config.values.as_ref());
            Condition::HttpRequestMethod(values(of, None)?)
        }
        "query-string" => {
            let of = condition.query_string_config.as_ref().and_then(|config| config.values.as_ref());
            let of =
                of.ok_or_else(|| validation("A value of the condition 'query-string' must be specified"))?;
            Condition::QueryString(of.iter().map(pair).collect::<Result<_, _>>()?)
        }
        "source-ip" => {
            let of = condition.source_ip_config.as_ref().and_then(|config| config.values.as_ref());
            let range = |text: &String| {
                text.parse().map_err(|_| validation(format!("'{text}' is not a valid CIDR block")))
            };
            Condition::SourceIp(values(of, None)?.iter().map(range).collect::<Result<_, _>>()?)
        }
        _ => {
            let known = "path-pattern,host-header,http-header,http-request-method,query-string,source-ip";
            return Err(validation(format!("Condition field '{field}' must be one of '[{known}]'")));
        }
    })
}

fn pair(pair: &elbv2::QueryStringKeyValuePair) -> Result<QueryPattern, Error> {
    let value = pair.value.clone().ok_or_else(|| validation("A query string must have a value"))?;
    Ok(QueryPattern { key: pair.key.clone().filter(|key| !key.is_empty()), value })
}

pub(super) fn shown(condition: &Condition) -> elbv2::RuleCondition {
    let of = |field: &str| elbv2::RuleCondition { field: Some(field.to_owned()), ..Default::default() };
    match condition {
        Condition::HostHeader(values) => elbv2::RuleCondition {
            values: Some(values.clone()),
            host_header_config: Some(elbv2::HostHeaderConditionConfig {
                values: Some(values.clone()),
                ..Default::default()
            }),
            ..of("host-header")
        },
        Condition::PathPattern(values) => elbv2::RuleCondition {
            values: Some(values.clone()),
            path_pattern_config: Some(elbv2::PathPatternConditionConfig {
                values: Some(values.clone()),
                ..Default::default()
            }),
            ..of("path-pattern")
        },
        Condition::HttpHeader { name, values } => elbv2::RuleCondition {
            http_header_config: Some(elbv2::HttpHeaderConditionConfig {
                http_header_name: Some(name.clone()),
                values: Some(values.clone()),
                ..Default::default()
            }),
            ..of("http-header")
        },
        Condition::HttpRequestMethod(values) => elbv2::RuleCondition {
            http_request_method_config: Some(elbv2::HttpRequestMethodConditionConfig {
                values: Some(values.clone()),
            }),
            ..of("http-request-method")
        },
        Condition::QueryString(pairs) => {
            let pair = |pair: &QueryPattern| elbv2::QueryStringKeyValuePair {
                key: pair.key.clone(),
                value: Some(pair.value.clone()),
            };
            let values = Some(pairs.iter().map(pair).collect());
            elbv2::RuleCondition {
                query_string_config: Some(elbv2::QueryStringConditionConfig { values }),
                ..of("query-string")
            }
        }
        Condition::SourceIp(ranges) => {
            let values = Some(ranges.iter().map(ToString::to_string).collect());
            let config = elbv2::SourceIpConditionConfig { values, ..Default::default() };
            elbv2::RuleCondition { source_ip_config: Some(config), ..of("source-ip") }
        }
    }
}
