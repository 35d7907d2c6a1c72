use agent_daemon::{kernel, process::Records as _};
fn main() {
    if std::env::args().any(|a| a == kernel::CHILD_ARGUMENT) {
        let mut s = String::new();
        std::io::stdin().read_line(&mut s).unwrap();
        return;
    }
    let t = std::time::Instant::now();
    let k = kernel::open(&kernel::Config {
        pin_dir: "/sys/fs/bpf/try".into(),
        mount_bpffs: true,
        max_processes: None,
        max_connections: None,
        event_buffer_bytes: None,
    });
    let k = match k {
        Ok(k) => k,
        Err(e) => {
            let mut e: &dyn std::error::Error = &e;
            loop {
                println!("{e}");
                match e.source() {
                    Some(s) => e = s,
                    None => break,
                }
            }
            return;
        }
    };
    println!("open {:?}", t.elapsed());
    for p in &k.proofs {
        println!("{} {:?} {:?}", p.id, p.tier, p.result);
    }
    for p in &k.programs {
        println!("{} adopted={} insns={}", p.name, p.is_adopted, p.verified_instructions());
    }
    for c in k.maps.counts() {
        println!("{c:?}");
    }
    for c in k.maps.capacities() {
        println!("{c:?}");
    }
    k.maps
        .processes(&mut |i| {
            if !i.flags.has(1 << 11) {
                println!(
                    "{} {} {} {:?} {:?}",
                    i.id,
                    i.process.tgid,
                    i.comm,
                    i.filename_lossy(),
                    i.flags.names().collect::<Vec<_>>()
                );
            }
        })
        .unwrap();
    println!("{:#?}", k.maps.process(std::process::id()));
}
