//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Where the manager keeps its state unless it is told otherwise.
const STATE: &str = "/var/lib/trivium/manage";
/// Where a host keeps its state unless it is told otherwise.
const HOST_STATE: &str = "/var/lib/trivium/host";

/// Runs a zone of virtual routers, secondary storage and console proxies.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Keep a zone as its file says; runs until it is ended. VMs run on without it.
    Serve {
        /// The zone file.
        #[arg(long)]
        zone: PathBuf,
        /// Folder of database, keys and the control socket.
        #[arg(long, default_value = STATE, env = "TRIVIUM_MANAGE_STATE")]
        state: PathBuf,
    },
    /// Run VMs on this machine; runs until it is ended. VMs run on without it.
    Host {
        /// File with the one-time token, needed the first time.
        #[arg(long)]
        join: Option<PathBuf>,
        /// Folder of certificate, disks and sockets; a short path.
        #[arg(long, default_value = HOST_STATE, env = "TRIVIUM_HOST_STATE")]
        state: PathBuf,
    },
    /// End this machine's system VMs when it is cut off for too long. `manage host` starts it; it outlives that one.
    #[command(hide = true)]
    Guard {
        /// Folder of the host.
        #[arg(long)]
        state: PathBuf,
    },
    /// Check a zone file and say what is wrong with it.
    Check {
        /// The zone file.
        zone: PathBuf,
    },
    /// Show what applying the changed zone file would do, and do nothing.
    Plan {
        #[command(flatten)]
        to: To,
    },
    /// Apply the changed zone file of the running `manage serve`, after showing what it does.
    Apply {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        to: To,
    },
    /// Show hosts, VMs, stores, templates and what happened last.
    Status {
        /// Wait so many seconds until everything is ready, showing what happens; fail if it is not.
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u64>,
        #[command(flatten)]
        to: To,
    },
    /// VMs.
    #[command(subcommand)]
    Vm(Vm),
    /// Routers.
    #[command(subcommand)]
    Router(Router),
    /// Security groups.
    #[command(subcommand)]
    Group(Group),
    /// Templates.
    #[command(subcommand)]
    Template(Template),
    /// Snapshots.
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Make a URL of a guest's console, good for one connection within a minute.
    ConsoleUrl {
        /// Name of the guest.
        vm: String,
        /// Who opens it may look and no more, beside others.
        #[arg(long)]
        view_only: bool,
        /// It is the URL of one picture of the screen, a PNG; `&w=` and `&h=` behind it bound its size.
        #[arg(long, conflicts_with = "view_only")]
        picture: bool,
        #[command(flatten)]
        to: To,
    },
    /// Print the completion of these commands for a shell.
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of these commands into a folder.
    Man {
        /// Folder, which exists.
        folder: PathBuf,
    },
    /// Show what happened last, oldest first.
    Events {
        /// Go on showing what happens, until it is ended.
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        to: To,
    },
    /// Make a new file for a host to join with, and print its path. An older one is void.
    HostToken {
        /// Name of the host in the zone file.
        host: String,
        #[command(flatten)]
        to: To,
    },
    /// Confirm that a host which is not heard is powered off: its system VMs are started elsewhere at once.
    HostOff {
        /// Name of the host in the zone file.
        host: String,
        #[command(flatten)]
        to: To,
    },
    /// Take a host out of service: its system VMs are stopped there and started on other hosts. Guests stay.
    HostDrain {
        /// Name of the host in the zone file.
        host: String,
        #[command(flatten)]
        to: To,
    },
    /// Refuse the certificates of a host or system VM from now on, and close its connection. A host joins again with a
    /// new file (`manage host-token`); a system VM is given a new certificate at once.
    Revoke {
        /// Name of the host in the zone file, or instance name of the VM.
        name: String,
        #[command(flatten)]
        to: To,
    },
    /// Give a host or system VM a new certificate now. By itself that happens 30 days before the old one ends.
    Renew {
        /// Name of the host in the zone file, or instance name of the VM.
        name: String,
        #[command(flatten)]
        to: To,
    },
    /// Take a drained host into service again.
    HostResume {
        /// Name of the host in the zone file.
        host: String,
        #[command(flatten)]
        to: To,
    },
}

/// Which manager to talk to, and how to print.
#[derive(Debug, Args)]
pub(crate) struct To {
    /// State folder of the running `manage serve`.
    #[arg(long, default_value = STATE, env = "TRIVIUM_MANAGE_STATE")]
    pub(crate) state: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `manage vm`
#[derive(Debug, Subcommand)]
pub(crate) enum Vm {
    /// List all VMs.
    List {
        #[command(flatten)]
        to: To,
    },
    /// Stop a VM, and keep it stopped.
    Stop {
        /// Instance name, or name of a guest.
        vm: String,
        /// Cut its power at once.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        to: To,
    },
    /// Start a VM that was stopped.
    Start {
        /// Instance name, or name of a guest.
        vm: String,
        #[command(flatten)]
        to: To,
    },
    /// Stop a VM and start it again.
    Reboot {
        /// Instance name, or name of a guest.
        vm: String,
        /// Cut its power at once.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        to: To,
    },
    /// Run a command of a system VM and print what it says.
    Run {
        /// Instance name.
        vm: String,
        /// Command and its arguments, such as `status`.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
        #[command(flatten)]
        to: To,
    },
}

/// `manage router`
#[derive(Debug, Subcommand)]
pub(crate) enum Router {
    /// Send a document to a router. It holds until the router is configured anew.
    Push {
        /// Instance name of the router.
        vm: String,
        /// File with the JSON document, `-` for standard input.
        document: PathBuf,
        #[command(flatten)]
        to: To,
    },
    /// Show what a document would change in a router, and change nothing.
    Diff {
        /// Instance name of the router.
        vm: String,
        /// File with the JSON document, `-` for standard input.
        document: PathBuf,
        #[command(flatten)]
        to: To,
    },
    /// Show what a router does.
    Show {
        /// Instance name of the router.
        vm: String,
        #[command(flatten)]
        to: To,
    },
}

/// `manage group`
#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// List all security groups.
    List {
        #[command(flatten)]
        to: To,
    },
    /// Show the rules and members of one.
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        to: To,
    },
}

/// `manage template`
#[derive(Debug, Subcommand)]
pub(crate) enum Template {
    /// Download a template into a store, and wait until it is there.
    Register {
        /// Name.
        #[arg(long)]
        name: String,
        /// Source.
        #[arg(long)]
        url: String,
        /// qcow2, raw, vhd, iso, ova, vmdk …
        #[arg(long, default_value = "qcow2")]
        format: String,
        /// `{SHA-256}hex` or so; bare hex is MD5.
        #[arg(long)]
        checksum: Option<String>,
        /// Name of the store.
        #[arg(long)]
        store: String,
        /// Do not wait.
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        to: To,
    },
    /// List all templates.
    List {
        #[command(flatten)]
        to: To,
    },
    /// Show one template.
    Status {
        /// Name.
        name: String,
        /// Name of the store, where more than one has it.
        #[arg(long)]
        store: Option<String>,
        #[command(flatten)]
        to: To,
    },
}

/// `manage snapshot`
#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Copy a snapshot from store to store, and print its new place.
    Copy {
        /// `STORE:PATH` of the file.
        from: String,
        /// `STORE:FOLDER` to copy it to.
        to_place: String,
        #[command(flatten)]
        to: To,
    },
}
