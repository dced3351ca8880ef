//! Versions of a small server, as upgrades meet them: one that migrates its
//! data, one that ruins it, ones that crash, never get well, or move things.
//!
//! All serve `/www` on port 8080 and keep rows, one a file, in `/data`. A
//! version writes there only when it finds what another left, so that data at
//! other files stay as they are across restarts.

use crate::docker::{Engine, IMAGE};

/// What a version does differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    /// The one everything begins with: healthy, 50 rows.
    V1,
    /// Rewrites every row for its own format, then is healthy.
    Migrates,
    /// As that, for yet another format.
    MigratesAgain,
    /// Rewrites and removes rows, then fails its health check.
    Corrupts,
    /// Rewrites rows and ends with exit code 3, at every start.
    CrashLoops,
    /// Touches nothing and fails its health check.
    NeverHealthy,
    /// Declares another volume besides.
    AddsVolume,
    /// Keeps its data elsewhere: `/srv/data` is its volume, `/data` is none.
    MovesVolume,
    /// Other defaults of every kind an image has.
    OtherDefaults,
}

// === impl App ===

impl App {
    pub const ALL: [Self; 9] = [
        Self::V1,
        Self::Migrates,
        Self::MigratesAgain,
        Self::Corrupts,
        Self::CrashLoops,
        Self::NeverHealthy,
        Self::AddsVolume,
        Self::MovesVolume,
        Self::OtherDefaults,
    ];

    pub const fn image(self) -> &'static str {
        match self {
            Self::V1 => "app:1",
            Self::Migrates => "app:2",
            Self::MigratesAgain => "app:2b",
            Self::Corrupts => "app:3",
            Self::CrashLoops => "app:4",
            Self::NeverHealthy => "app:5",
            Self::AddsVolume => "app:6",
            Self::MovesVolume => "app:6-moved",
            Self::OtherDefaults => "app:7",
        }
    }

    /// As few steps as can be: each makes a container. What is to get well may
    /// fail its check for long, on a busy machine.
    fn dockerfile(self) -> String {
        let version = self.image().trim_start_matches("app:");
        let from = format!("FROM {BASE}\nENV APP_VERSION={version}");
        match self {
            Self::AddsVolume => format!("{from} MODE=slow\nVOLUME /data /cache\n"),
            Self::MovesVolume => format!("{from} MODE=slow DATA=/srv/data\nVOLUME /srv/data\n"),
            Self::OtherDefaults => format!(
                "{from} MODE=fast NEW_DEFAULT=yes\nLABEL maker=other tier=new\nVOLUME /data\nUSER 1000:1000\n\
                 WORKDIR /www\nSTOPSIGNAL SIGINT\nENTRYPOINT [\"/bin/sh\"]\nCMD [\"/serve\", \"--fast\"]\n\
                 EXPOSE 9090\nHEALTHCHECK --interval=300ms --timeout=10s --retries=60 CMD {HEALTH}\n"
            ),
            Self::Corrupts | Self::NeverHealthy => format!(
                "{from} MODE=slow\nVOLUME /data\n\
                 HEALTHCHECK --interval=500ms --timeout=10s --retries=5 CMD {HEALTH}\n"
            ),
            _ => format!("{from} MODE=slow\nVOLUME /data\n"),
        }
    }
}

const BASE: &str = "app:base";

const HEALTH: &str = "wget -q -O /dev/null http://127.0.0.1:8080/health";

/// `$WRITE` makes it append to `/data/log` ten times a second.
const SERVE: &str = r#"#!/bin/sh
for signal in TERM INT QUIT USR1; do trap "echo ended by $signal; exit 0" $signal; done
data=${DATA:-/data}
format=$(cat $data/format 2>/dev/null)
rewrite() { sed -i "s/^/$1 /" $data/rows/*; }
case $APP_VERSION in
2*)
    [ "$format" = $APP_VERSION ] || { rewrite $APP_VERSION; echo $APP_VERSION > $data/format; } ;;
3)
    rewrite ruined; rm -f $data/rows/*1; chmod 700 $data; echo 3 > $data/format ;;
4)
    rewrite looped; exit 3 ;;
*)
    if [ -z "$format" ] && [ -w $data ]; then
        mkdir $data/rows
        for i in 1 2 3 4 5; do for j in 0 1 2 3 4 5 6 7 8 9; do echo "row $i$j" > $data/rows/$i$j; done; done
        echo 1 > $data/format
    fi ;;
esac
echo "version $APP_VERSION serves"
case $APP_VERSION in 3|5) ;; *) httpd -f -p 8080 -h /www & ;; esac
while [ -n "$WRITE" ]; do i=$((i+1)); echo line $i >> $data/log; sleep 0.1; done
sleep 100000 & wait
"#;

/// Builds these versions on an Engine.
pub fn build(engine: &Engine, versions: &[App]) {
    let base = format!(
        "FROM {IMAGE}\nCOPY serve /serve\nCOPY health /www/health\nLABEL maker=example\nEXPOSE 8080\nCMD [\"/serve\"]\n\
         HEALTHCHECK --interval=500ms --timeout=10s --retries=60 CMD {HEALTH}\n"
    );
    engine.build_image(&base, &[("serve", SERVE), ("health", "well\n")], BASE);
    for version in versions {
        engine.build_image(&version.dockerfile(), &[], version.image());
    }
}
