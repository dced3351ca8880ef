//! A container that uses every setting.

use serde_json::{Value, json};

use super::World;

pub(super) fn everything(world: &World) -> Value {
    json!({
        "Hostname": "own-host", "Domainname": "example.test", "User": "7:8",
        "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
        "Tty": true, "OpenStdin": true, "StdinOnce": true, "ArgsEscaped": true,
        "ExposedPorts": { "7777/udp": {} },
        "Env": ["OWN=1", "SAME=other", "NAME_ONLY"],
        "Entrypoint": ["/bin/busybox"], "Cmd": ["sleep", "5"],
        "Healthcheck": { "Test": ["CMD", "true"], "Interval": 3_000_000_000_u64, "Timeout": 4_000_000_000_u64,
            "StartPeriod": 5_000_000_000_u64, "Retries": 6 },
        "Volumes": { "/user-volume": {} },
        "WorkingDir": "/own", "StopSignal": "SIGQUIT", "StopTimeout": 0,
        "MacAddress": "02:11:22:33:44:55", "OnBuild": ["RUN true"], "Shell": ["/bin/sh", "-e"],
        "Labels": { "own": "1", "com.docker.compose.image": "sha256:old", "com.docker.compose.config-hash": "c" },
        "HostConfig": host_config(world),
        "NetworkingConfig": { "EndpointsConfig": { &world.network: {
            "Aliases": ["db", "database"], "Links": [format!("{}:linked", world.source)],
            "IPAMConfig": { "IPv4Address": world.address, "LinkLocalIPs": ["169.254.7.7"] },
            "DriverOpts": { "own": "1" },
        } } },
    })
}

fn host_config(world: &World) -> Value {
    let named = format!("{}:/named:ro,nocopy", world.scene.name("named"));
    let (mut host, resources) = (
        json!({
            "Binds": ["/tmp:/bound:ro,rslave", "/nameless-bind", named],
            "ContainerIDFile": "/tmp/cid", "ConsoleSize": [25, 80],
            "LogConfig": { "Type": "local", "Config": { "max-size": "5m" } },
            "NetworkMode": world.network,
            "PortBindings": { "7777/udp": [{ "HostPort": "" }], "5353/udp": [{ "HostIp": "127.0.0.1", "HostPort": "25353" }] },
            "PublishAllPorts": true,
            "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 3 },
            "VolumeDriver": "local", "VolumesFrom": [format!("{}:ro", world.source)],
            "CapAdd": ["NET_ADMIN"], "CapDrop": ["MKNOD"], "CgroupnsMode": "private",
            "Dns": ["192.0.2.1"], "DnsOptions": ["ndots:2"], "DnsSearch": ["example.test"],
            "ExtraHosts": ["other:192.0.2.2"], "GroupAdd": ["44"], "IpcMode": "private", "OomScoreAdj": 100,
            "PidMode": format!("container:{}", world.source), "ReadonlyRootfs": true,
            "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"], "UsernsMode": "host"
        }),
        json!({ "Tmpfs": { "/tmpfs": "size=1m,mode=700" }, "ShmSize": 1_048_576, "Sysctls": { "net.core.somaxconn": "99" },
            "Runtime": "io.containerd.runc.v2", "Init": true,
            "CpuShares": 512, "Memory": 67_108_864, "MemoryReservation": 33_554_432, "MemorySwap": 134_217_728,
            "MemorySwappiness": 10, "OomKillDisable": true, "NanoCpus": 500_000_000_u64, "CgroupParent": "/hf-unit",
            "CpusetCpus": "0", "CpusetMems": "0", "PidsLimit": 50, "BlkioWeight": 300,
            "BlkioWeightDevice": [{ "Path": "/dev/null", "Weight": 200 }],
            "BlkioDeviceReadBps": [{ "Path": "/dev/null", "Rate": 1000 }],
            "BlkioDeviceWriteBps": [{ "Path": "/dev/null", "Rate": 1001 }],
            "BlkioDeviceReadIOps": [{ "Path": "/dev/null", "Rate": 1002 }],
            "BlkioDeviceWriteIOps": [{ "Path": "/dev/null", "Rate": 1003 }],
            "Devices": [{ "PathOnHost": "/dev/null", "PathInContainer": "/dev/own", "CgroupPermissions": "r" }],
            "DeviceCgroupRules": ["c 1:3 r"],
            "DeviceRequests": [{ "Driver": "own", "Count": 1, "DeviceIDs": null, "Capabilities": [["gpu"]], "Options": { "a": "b" } }],
            "Ulimits": [{ "Name": "nofile", "Soft": 100, "Hard": 200 }],
            "MaskedPaths": ["/proc/own"], "ReadonlyPaths": [],
            "Mounts": [
                { "Type": "volume", "Target": "/nameless-mount", "VolumeOptions": { "Labels": { "l": "1" } } },
                { "Type": "volume", "Source": world.scene.name("second"), "Target": "/second", "ReadOnly": true,
                  "VolumeOptions": { "NoCopy": true } },
                { "Type": "bind", "Source": "/tmp", "Target": "/bound-too", "Consistency": "cached",
                  "BindOptions": { "Propagation": "rshared", "NonRecursive": true } },
                { "Type": "tmpfs", "Target": "/tmpfs-too", "TmpfsOptions": { "SizeBytes": 4096, "Mode": 448 } },
            ],
        }),
    );
    for (key, value) in resources.as_object().expect("written above") {
        host[key] = value.clone();
    }
    host
}
