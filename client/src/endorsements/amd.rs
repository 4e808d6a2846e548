//! AMD's Key Distribution Service (AMD publication 57230, chapter 4; VLEK: publication 58369):
//!
//! - `/vcek/v1/<product>/<hwID in hex>?blSPL=…&teeSPL=…&snpSPL=…&ucodeSPL=…`, on Turin with `fmcSPL` in front: DER
//! - `/vcek/v1/<product>/cert_chain`, `/vlek/v1/<product>/cert_chain`: PEM of ASK or ASVK, then ARK
//! - `/vcek/v1/<product>/crl`, `/vlek/v1/<product>/crl`: DER
//!
//! A VLEK itself is given only to the cloud provider that loads it; it comes with the Evidence.

use verifier::endorsements::WantedOfAmd;
use verifier::snp::{Product, SigningKey};

use super::service::{Question, Service};
use super::{Answer, Asked, Base, Collected, FetchError, Services, pem};

const CERTIFICATE: &str = "CERTIFICATE";
const CRL: &str = "X509 CRL";

pub(super) async fn collect(
    service: &Service,
    services: &Services,
    wanted: &WantedOfAmd,
) -> Result<Collected, FetchError> {
    let mut asked: Vec<Asked> = Vec::new();
    let mut text = String::new();
    if let Some(url) = vcek_url(&services.amd_kds, wanted) {
        let question = der_question(url, false, "a certificate in DER");
        let answer = service.ask(&question, &mut asked).await?;
        text.push_str(&as_pem(CERTIFICATE, &question, &answer)?);
    }
    let product_url = product_url(&services.amd_kds, wanted);
    let question = Question {
        url: format!("{product_url}/cert_chain"),
        chain: None,
        ages: false,
        wanted: "two certificates in PEM",
        form: |answer| chain(answer).map(drop),
    };
    let answer = service.ask(&question, &mut asked).await?;
    for der in chain(&answer).map_err(|problem| not_the_form(&question, problem))? {
        text.push_str(&pem::block(CERTIFICATE, &der));
    }
    let question = der_question(format!("{product_url}/crl"), true, "a revocation list in DER");
    let answer = service.ask(&question, &mut asked).await?;
    text.push_str(&as_pem(CRL, &question, &answer)?);
    Ok(Collected { file_name: file_name(wanted), bytes: text.into_bytes(), asked })
}

fn der_question(url: String, ages: bool, wanted: &'static str) -> Question {
    Question { url, chain: None, ages, wanted, form: |answer| pem::der(&answer.body).map(drop) }
}

fn as_pem(label: &str, question: &Question, answer: &Answer) -> Result<String, FetchError> {
    let der = pem::der(&answer.body).map_err(|problem| not_the_form(question, problem))?;
    Ok(pem::block(label, &der))
}

fn not_the_form(question: &Question, problem: String) -> FetchError {
    FetchError::Form { url: question.url.clone(), wanted: question.wanted, problem }
}

/// The certificates of a chain, each whole.
fn chain(answer: &Answer) -> Result<Vec<Vec<u8>>, String> {
    let text = std::str::from_utf8(&answer.body).map_err(|_| "it is not text".to_owned())?;
    let blocks = pem::blocks(text)?;
    if blocks.len() != 2 {
        return Err(format!("it has {} PEM blocks", blocks.len()));
    }
    blocks
        .into_iter()
        .map(|(label, der)| match label.as_str() {
            CERTIFICATE => pem::der(&der),
            other => Err(format!("it has a block `{other}`")),
        })
        .collect()
}

fn product_url(base: &Base, wanted: &WantedOfAmd) -> String {
    let kind = match wanted.key {
        SigningKey::Vcek => "vcek",
        SigningKey::Vlek => "vlek",
    };
    format!("{}/{kind}/v1/{}", base.0, wanted.product.certificate_name())
}

fn vcek_url(base: &Base, wanted: &WantedOfAmd) -> Option<String> {
    let id = hex::encode(wanted.hardware_id.as_ref()?);
    let tcb = &wanted.tcb;
    let fmc = if wanted.product == Product::Turin { format!("fmcSPL={}&", tcb.fmc) } else { String::new() };
    Some(format!(
        "{}/{id}?{fmc}blSPL={}&teeSPL={}&snpSPL={}&ucodeSPL={}",
        product_url(base, wanted),
        tcb.bootloader,
        tcb.tee,
        tcb.snp,
        tcb.microcode
    ))
}

fn file_name(wanted: &WantedOfAmd) -> String {
    let product = wanted.product.name();
    match &wanted.hardware_id {
        Some(id) => {
            let chip: String = hex::encode(id).chars().take(16).collect();
            format!("amd-{product}-{chip}-{}.pem", wanted.tcb)
        }
        None => format!("amd-{product}-vlek.pem"),
    }
}

#[cfg(test)]
mod tests {
    use verifier::snp::Tcb;

    use super::*;

    fn wanted(product: Product, length: usize) -> WantedOfAmd {
        let tcb = Tcb { fmc: 1, bootloader: 4, tee: 0, snp: 24, microcode: 219 };
        WantedOfAmd { product, key: SigningKey::Vcek, hardware_id: Some(vec![0xab; length]), tcb }
    }

    #[test]
    fn each_product_has_its_urls() {
        let base = Base::parse(super::super::AMD_KDS).expect("a URL");
        let url = |wanted: &WantedOfAmd| vcek_url(&base, wanted);
        let id = "ab".repeat(64);
        for name in ["Milan", "Genoa"] {
            let product = Product::from_product_name(name).expect("a product");
            assert_eq!(
                url(&wanted(product, 64)),
                Some(format!(
                    "https://kdsintf.amd.com/vcek/v1/{name}/{id}?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219"
                ))
            );
        }
        assert_eq!(
            url(&wanted(Product::Turin, 8)).as_deref(),
            Some(
                "https://kdsintf.amd.com/vcek/v1/Turin/abababababababab?fmcSPL=1&blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219"
            )
        );
        let vlek = WantedOfAmd { key: SigningKey::Vlek, hardware_id: None, ..wanted(Product::Genoa, 64) };
        assert_eq!(url(&vlek), None);
        assert_eq!(product_url(&base, &vlek), "https://kdsintf.amd.com/vlek/v1/Genoa");
    }
}
