use aya::programs::SchedClassifier;
#[test]
fn load() {
    let mut ebpf = aya::EbpfLoader::new().load(colo_proxy::datapath::OBJECT).unwrap();
    for (name, program) in ebpf.programs_mut() {
        let program: &mut SchedClassifier = program.try_into().unwrap();
        match program.load() {
            Ok(()) => println!(
                "{name}: {:?} verified, {:?} bytes",
                program.info().unwrap().verified_instruction_count(),
                program.info().unwrap().size_translated()
            ),
            Err(error) => {
                let e = format!("{error}");
                let n = e.len();
                println!("{name}: {} ... {}", &e[..n.min(300)], &e[n.saturating_sub(3000)..])
            }
        }
    }
}
