fn main() -> anyhow::Result<()> {
    let out = std::path::Path::new("proto/src/gen");
    std::fs::create_dir_all(out)?;
    let fds = protox::compile(["agent/v1/agent.proto", "agent/admin/v1/admin.proto"], ["proto/proto"])?;
    use prost::Message;
    std::fs::write(out.join("descriptors.bin"), fds.encode_to_vec())?;
    tonic_prost_build::configure()
        .out_dir(out)
        .skip_debug(["agent.v1.Credential", "agent.admin.v1.PutSecretRequest"])
        .compile_fds(fds)?;
    Ok(())
}
