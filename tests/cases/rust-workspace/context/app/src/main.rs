fn main() {
    println!("{}", sum::sum(std::env::args().skip(1)));
}
