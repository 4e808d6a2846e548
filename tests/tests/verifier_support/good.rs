//! Good whole builds on each platform, in pairs: two callers, two keys, two machines, one policy that accepts both.
//! NOT HARDWARE: the Evidence is the software TEE's.

use provenance::binding::{Leaf, Nonce};
use provenance::evidence::{Evidence, EvidenceBundle, Platform};
use provenance::request::BuildId;
use sealwright_tests::reference_values::SoftwareRelease;
use sealwright_tests::software_tee::tdx::{QuoteVersion, SoftwareTdx};
use sealwright_tests::software_tee::{Product, Tcb};
use verifier::policy::{PolicyTemplate, policy_from_reference_values};
use verifier::secure_execution::OwnRequest;
use verifier::{ImageInput, Verdict, verify_image_with_own_requests};

use super::setting::Setting;
use super::support::PolicyText;
use super::world::{Made, World, now};

/// A build whose every part holds.
pub(crate) struct Good {
    pub(crate) world: World,
    pub(crate) made: Made,
    /// Own attestation requests that the Evidence may answer.
    pub(crate) own: Vec<OwnRequest>,
    /// Secure Execution: the request that was made, and its protection key.
    pub(crate) request: Option<(Vec<u8>, [u8; 32])>,
}

impl Good {
    fn of(world: World, made: Made) -> Self {
        Self { world, made, own: Vec::new(), request: None }
    }

    /// Judges what was fetched.
    pub(crate) fn judge(&self, input: &ImageInput) -> Verdict {
        verify_image_with_own_requests(&self.made.parsed_policy(), input, &self.own, now())
    }
}

/// Two worlds that differ in caller, keys, boot, request and image.
fn worlds(platform: Platform) -> [World; 2] {
    [1, 2].map(|number| {
        let mut world = World::new();
        world.instance.platform = platform;
        world.instance.boot_id = format!("{number:02}").repeat(32);
        world.request.nonce = Nonce([number; 32]);
        world.request.project = world.caller.project(&format!("acme/app-{number}"));
        world.request.build_id = BuildId::try_from(format!("b-{number}")).expect("a build id");
        world.blobs[1].push(number);
        world.manifest = super::world::image_manifest(&world.blobs[0], &world.blobs[1]);
        world
    })
}

/// Accepts the callers of both, where the first is accepted.
fn for_both(policy: &PolicyText, [one, other]: [&World; 2]) -> PolicyText {
    let [one, other] = [one, other].map(|world| world.caller.public.spki_sha256());
    let known = format!("spki_sha256 = \"{one}\" }}");
    policy.clone().with(&known, &format!("{known}, {{ name = \"other\", spki_sha256 = \"{other}\" }}"))
}

fn report_data(bundle: &EvidenceBundle) -> provenance::binding::ReportData {
    let leaf = Leaf::parse(&bundle.leaf).expect("a leaf");
    bundle.proof.report_data(&leaf).expect("a proof")
}

/// A Milan chip, and a Genoa chip under the same root.
pub(crate) fn snp() -> [Good; 2] {
    let [one, other] = worlds(Platform::SevSnp);
    let policy = for_both(&one.policy(), [&one, &other]);
    let genoa = one.tee.new_chip(Product::Genoa, Tcb::of(Product::Genoa), |_| ()).expect("a chip");
    let mut first = one.make();
    let mut second =
        other.make().with_bundle(|bundle| bundle.evidence = genoa.evidence(&report_data(bundle), |_| ()));
    first.policy = policy.clone();
    second.policy = policy;
    [Good::of(one, first), Good::of(other, second)]
}

/// Two platforms, each under a root of its own: a quote of version 5 each.
pub(crate) fn tdx() -> [Good; 2] {
    let worlds = worlds(Platform::Tdx);
    let directory = tempfile::tempdir().expect("a directory");
    let shared = SoftwareTdx::shared().expect("a software TD");
    let stranger = SoftwareTdx::open(directory.path()).expect("another software TD");
    let mut values = SoftwareRelease::tdx(&shared).values(&worlds[0].instance);
    values.dangerous_roots = vec![shared.root_spki_sha256(), stranger.root_spki_sha256()];
    let callers =
        worlds.iter().enumerate().map(|(index, world)| (format!("ci-{index}"), world.caller.public.clone()));
    let template = PolicyTemplate { callers: callers.collect(), ..PolicyTemplate::default() };
    let policy = PolicyText(policy_from_reference_values(&values, &template));
    let platforms = [shared, stranger];
    let mut made = worlds.iter().zip(&platforms).map(|(world, tee)| {
        let mut made = world.make().with_bundle(|bundle| {
            bundle.evidence = Evidence {
                platform: Platform::Tdx,
                report: tee.quote(&tee.recipe(QuoteVersion::V5, &report_data(bundle))),
                endorsements: tee.endorsements().encode(),
            };
        });
        made.policy = policy.clone();
        made
    });
    let both = [made.next().expect("one"), made.next().expect("two")];
    let mut worlds = worlds.into_iter();
    both.map(|made| Good::of(worlds.next().expect("two worlds"), made))
}

/// Two machines, each with the request of its caller, documents under a root of their own, the same image.
pub(crate) fn secure_execution() -> [Good; 2] {
    let [one, other] = worlds(Platform::SecureExecution);
    let settings = [Setting::of_world(one), Setting::of_world(other)];
    let mut made = settings.each_ref().map(|setting| {
        // The one who asked needs nobody's word.
        setting.made(None, false).with_bundle(|bundle| bundle.attestation_result = None)
    });
    let [first, second] = &settings;
    let mut policy = for_both(&made[0].policy, [&first.world, &second.world]);
    let hashes = [first, second].map(|setting| setting.machine.host_key().hash().to_string());
    for rule in ["image_host_keys", "attestation_host_keys"] {
        let known = format!("{rule} = [\"{}\"]", hashes[0]);
        policy = policy.with(&known, &format!("{rule} = [\"{}\", \"{}\"]", hashes[0], hashes[1]));
    }
    let roots = [first, second].map(|setting| setting.documents.root.to_string());
    policy = policy.with(&format!("\"{}\"", roots[0]), &format!("\"{}\", \"{}\"", roots[0], roots[1]));
    for made in &mut made {
        made.policy = policy.clone();
    }
    let mut made = made.into_iter();
    settings.map(|setting| {
        let own = vec![setting.own()];
        let request = Some((setting.requester.request.clone(), setting.requester.protection_key));
        Good { own, request, ..Good::of(setting.world, made.next().expect("two builds")) }
    })
}
