use super::*;

#[test]
fn a_platform_that_is_not_the_engines_is_carried() {
    let facts = Facts { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..Default::default() };
    let of = |architecture: &str, variant: &str| {
        facts.platform_of(&json!({ "Os": "linux", "Architecture": architecture, "Variant": variant }))
    };
    assert_eq!(of("amd64", ""), None);
    assert_eq!(of("arm64", "v8").as_deref(), Some("linux/arm64/v8"));
    assert_eq!(of("arm64", "").as_deref(), Some("linux/arm64"));
    let facts = Facts { architecture: "arm".to_owned(), ..facts };
    let image = json!({ "Os": "linux", "Architecture": "arm", "Variant": "v6" });
    assert_eq!(facts.platform_of(&image).as_deref(), Some("linux/arm/v6"));
}

#[test]
fn values_of_variables_can_be_left_out() {
    let inspect = json!({ "Name": "/c", "Config": { "Env": ["A=secret", "B"] }, "HostConfig": {} });
    let spec = Spec::of(&inspect, &Value::Null, &Facts::default(), &[]).unwrap();
    assert_eq!(spec.without_secrets().config["Env"], json!(["A=***", "B"]));
    assert_eq!(spec.config["Env"], json!(["A=secret", "B"]));
    assert_eq!(spec.restart_policy()["Name"], "no");
}

/// Each part by itself: what one of them keeps, no other hides.
#[test]
fn v07_no_part_of_a_specification_keeps_its_secrets() {
    let part = |value: Value| value.as_object().unwrap().clone();
    let endpoint = part(json!({ "DriverOpts": { "auth.token": "of the endpoint" } }));
    let spec = Spec {
        name: "c".to_owned(),
        image: "app".to_owned(),
        image_id: String::new(),
        platform: None,
        config: part(json!({ "Labels": { "db.password": "of the label", "app": "shop" } })),
        host_config: part(json!({ "LogConfig": { "Config": { "splunk-token": "of the log" } } })),
        networks: vec![("back".to_owned(), endpoint)],
        notes: Vec::new(),
    };
    let told = serde_json::to_string(&spec.without_secrets()).unwrap();
    let whole = serde_json::to_string(&spec).unwrap();
    for secret in ["of the label", "of the log", "of the endpoint"] {
        assert!(whole.contains(secret) && !told.contains(secret), "{secret}: {told}");
    }
    assert!(told.contains("shop"), "{told}");
}

#[test]
fn what_is_no_container_is_refused_by_name() {
    let error =
        Spec::of(&json!({ "Name": "/c", "Config": {} }), &Value::Null, &Facts::default(), &[]).unwrap_err();
    assert_eq!(error.to_string(), "the Engine's answer about container `c` has no HostConfig");
}

#[test]
fn other_containers_are_named_by_name() {
    let id = "ab".repeat(32);
    let inspect = json!({ "Name": "/c", "Config": {}, "HostConfig": {
        "NetworkMode": format!("container:{id}"), "IpcMode": format!("container:{}", &id[..12]),
        "PidMode": "container:gone", "Cgroup": "container:db", "Links": ["/db:/c/database"] } });
    let mut surroundings = Surroundings::default();
    surroundings.containers.push((id, "db".to_owned()));
    let spec = Spec::within(&inspect, &Value::Null, &Facts::default(), &surroundings).unwrap();
    let modes = ["NetworkMode", "IpcMode", "PidMode", "Cgroup"].map(|key| spec.host_config[key].clone());
    assert_eq!(modes, ["container:db", "container:db", "container:gone", "container:db"]);
    assert_eq!(spec.notes.len(), 1, "{:?}", spec.notes);
}

#[test]
fn a_spec_on_disk_is_the_same_when_read() {
    let inspect = json!({ "Name": "/c", "Image": "sha256:1", "Config": { "Image": "a:1", "Labels": { "b": "1", "a": "2" } },
        "HostConfig": { "NetworkMode": "n" }, "NetworkSettings": { "Networks": { "n": {}, "m": { "Aliases": ["x"] } } } });
    let spec = Spec::of(&inspect, &Value::Null, &Facts::default(), &[]).unwrap();
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
    assert!(text.find(r#"["n","#).unwrap() < text.find(r#"["m","#).unwrap(), "{text}");
}
