//! The byte layouts and numbers of the device calls, against the kernel's own headers: a C program prints what the
//! compiler makes of them.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use enclave_keys::devices::{sev_guest::layout as snp, uv::layout as uv};
use sealwright_tests::tools::tool;

/// C expressions and the values that we use for them.
fn compare(include: &str, search: Option<&Path>, wanted: &[(&str, usize)]) {
    let mut source = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include <sys/ioctl.h>\n#include <{include}>\nint main(void) {{\n"
    );
    for (expression, _) in wanted {
        writeln!(source, "    printf(\"%llu\\n\", (unsigned long long)({expression}));").expect("a String");
    }
    source.push_str("    return 0;\n}\n");
    let dir = tempfile::tempdir().expect("a directory");
    let (file, program) = (dir.path().join("layout.c"), dir.path().join("layout"));
    std::fs::write(&file, source).expect("written");
    let mut compile = Command::new("cc");
    if let Some(search) = search {
        compile.arg("-I").arg(search);
    }
    let output = compile.arg("-o").arg(&program).arg(&file).output().expect("cc (Debian package gcc)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(&program).output().expect("it runs");
    let printed = String::from_utf8(output.stdout).expect("text");
    let got: Vec<usize> = printed.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(got.len(), wanted.len());
    for ((expression, wanted), got) in wanted.iter().zip(got) {
        assert_eq!(got, *wanted, "{expression}");
    }
}

#[test]
fn the_sev_guest_calls_are_those_of_linux_sev_guest_h() {
    let number = |number: u32| number as usize;
    compare(
        "linux/sev-guest.h",
        None,
        &[
            ("SNP_GET_REPORT", number(snp::GET_REPORT)),
            ("SNP_GET_DERIVED_KEY", number(snp::GET_DERIVED_KEY)),
            ("SNP_GET_EXT_REPORT", number(snp::GET_EXTENDED_REPORT)),
            ("sizeof(struct snp_guest_request_ioctl)", snp::REQUEST_LEN),
            ("offsetof(struct snp_guest_request_ioctl, msg_version)", snp::REQUEST_VERSION),
            ("offsetof(struct snp_guest_request_ioctl, req_data)", snp::REQUEST_DATA),
            ("offsetof(struct snp_guest_request_ioctl, resp_data)", snp::REQUEST_RESPONSE),
            ("offsetof(struct snp_guest_request_ioctl, exitinfo2)", snp::REQUEST_FIRMWARE_ERROR),
            ("offsetof(struct snp_guest_request_ioctl, fw_error)", snp::REQUEST_FIRMWARE_ERROR),
            ("offsetof(struct snp_guest_request_ioctl, vmm_error)", snp::REQUEST_HOST_ERROR),
            ("sizeof(struct snp_report_req)", snp::REPORT_REQUEST_LEN),
            ("offsetof(struct snp_report_req, user_data)", snp::REPORT_REQUEST_DATA),
            ("offsetof(struct snp_report_req, vmpl)", snp::REPORT_REQUEST_VMPL),
            ("sizeof(struct snp_report_resp)", snp::REPORT_RESPONSE_LEN),
            ("sizeof(struct snp_ext_report_req)", snp::EXTENDED_REQUEST_LEN),
            ("offsetof(struct snp_ext_report_req, data)", 0),
            ("offsetof(struct snp_ext_report_req, certs_address)", snp::EXTENDED_REQUEST_CERTIFICATES),
            ("offsetof(struct snp_ext_report_req, certs_len)", snp::EXTENDED_REQUEST_CERTIFICATES_LEN),
            ("sizeof(struct snp_derived_key_req)", snp::KEY_REQUEST_LEN),
            ("offsetof(struct snp_derived_key_req, root_key_select)", snp::KEY_REQUEST_ROOT),
            ("offsetof(struct snp_derived_key_req, guest_field_select)", snp::KEY_REQUEST_FIELDS),
            ("offsetof(struct snp_derived_key_req, vmpl)", snp::KEY_REQUEST_VMPL),
            ("offsetof(struct snp_derived_key_req, guest_svn)", snp::KEY_REQUEST_GUEST_SVN),
            ("offsetof(struct snp_derived_key_req, tcb_version)", snp::KEY_REQUEST_TCB),
            ("sizeof(struct snp_derived_key_resp)", snp::KEY_RESPONSE_LEN),
            ("SNP_GUEST_VMM_ERR_INVALID_LEN", number(snp::HOST_INVALID_LENGTH)),
            ("SNP_GUEST_VMM_ERR_BUSY", number(snp::HOST_BUSY)),
        ],
    );
}

#[test]
fn the_ultravisor_calls_are_those_of_asm_uvdevice_h() {
    let header = tool("s390x-uapi/asm/uvdevice.h");
    let search = header.parent().and_then(Path::parent).expect("two directories above the header");
    let number = |number: u32| number as usize;
    compare(
        "asm/uvdevice.h",
        Some(search),
        &[
            ("UVIO_IOCTL_UVDEV_INFO", number(uv::INFO)),
            ("UVIO_IOCTL_ATT", number(uv::ATTEST)),
            ("UVIO_IOCTL_ADD_SECRET", number(uv::ADD_SECRET)),
            ("UVIO_IOCTL_LIST_SECRETS", number(uv::LIST_SECRETS)),
            ("UVIO_IOCTL_LOCK_SECRETS", number(uv::LOCK_SECRETS)),
            ("UVIO_IOCTL_RETR_SECRET", number(uv::RETRIEVE_SECRET)),
            ("sizeof(struct uvio_ioctl_cb)", uv::CONTROL_LEN),
            ("offsetof(struct uvio_ioctl_cb, flags)", 0),
            ("offsetof(struct uvio_ioctl_cb, uv_rc)", uv::CONTROL_CODE),
            ("offsetof(struct uvio_ioctl_cb, uv_rrc)", uv::CONTROL_REASON),
            ("offsetof(struct uvio_ioctl_cb, argument_addr)", uv::CONTROL_ARGUMENT),
            ("offsetof(struct uvio_ioctl_cb, argument_len)", uv::CONTROL_ARGUMENT_LEN),
            ("sizeof(struct uvio_attest)", uv::ATTEST_LEN),
            ("offsetof(struct uvio_attest, arcb_addr)", uv::ATTEST_REQUEST),
            ("offsetof(struct uvio_attest, meas_addr)", uv::ATTEST_MEASUREMENT),
            ("offsetof(struct uvio_attest, add_data_addr)", uv::ATTEST_ADDITIONAL),
            ("offsetof(struct uvio_attest, user_data)", uv::ATTEST_USER_DATA),
            ("offsetof(struct uvio_attest, config_uid)", uv::ATTEST_CONFIG_UID),
            ("offsetof(struct uvio_attest, arcb_len)", uv::ATTEST_REQUEST_LEN),
            ("offsetof(struct uvio_attest, meas_len)", uv::ATTEST_MEASUREMENT_LEN),
            ("offsetof(struct uvio_attest, add_data_len)", uv::ATTEST_ADDITIONAL_LEN),
            ("offsetof(struct uvio_attest, user_data_len)", uv::ATTEST_USER_DATA_LEN),
            ("sizeof(((struct uvio_attest *)0)->user_data)", uv::USER_DATA_MAX),
            ("sizeof(((struct uvio_attest *)0)->config_uid)", uv::CONFIG_UID_LEN),
            ("sizeof(struct uvio_uvdev_info)", uv::INFO_LEN),
            ("offsetof(struct uvio_uvdev_info, supp_uvio_cmds)", uv::INFO_DEVICE),
            ("offsetof(struct uvio_uvdev_info, supp_uv_cmds)", uv::INFO_ULTRAVISOR),
            ("UVIO_ATT_ARCB_MAX_LEN", uv::REQUEST_MAX),
            ("UVIO_ATT_MEASUREMENT_MAX_LEN", uv::MEASUREMENT_MAX),
            ("UVIO_ATT_ADDITIONAL_MAX_LEN", uv::ADDITIONAL_MAX),
            ("UVIO_ADD_SECRET_MAX_LEN", uv::ADD_SECRET_MAX),
            ("UVIO_LIST_SECRETS_LEN", uv::LIST_PAGE),
            ("UVIO_RETR_SECRET_MAX_LEN", uv::RETRIEVE_MAX),
        ],
    );
}
