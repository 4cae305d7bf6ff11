/*
 * One set of promises that every step and every class of the library keeps; there are no exemptions.
 *     groovy -cp shared-library/test/harness:shared-library/src shared-library/test/convention.groovy
 */
import io.tidegate.Keys
import io.tidegate.Options
import java.security.MessageDigest
import played.Sources

File library = new File(getClass().protectionDomain.codeSource.location.toURI()).parentFile.parentFile
List<String> mistakes = []
List<File> vars = new File(library, 'vars').listFiles().sort()
List<File> classes = new File(library, 'src/io/tidegate').listFiles().sort()
List<File> steps = vars.findAll { it.name.endsWith('.groovy') }
mistakes += vars.findAll { !(it.name =~ /\.(groovy|txt)$/) }.collect { "${it.name}: only steps and their help belong in vars" }

// -- every step has a help that tells all its options, and no other ----------------------------------------------------

List<String> documented(String help) {
    String part = help.contains('\nOptions:\n') ? help.split('\nOptions:\n')[1].split('\n\n')[0] : ''
    return part.readLines().collect { it.split(':')[0] }
}

for (File step in steps) {
    String name = step.name - '.groovy'
    File help = new File(step.parentFile, name + '.txt')
    if (!help.exists()) {
        mistakes << "${name}: no help, ${help.name} is missing"
        continue
    }
    List<String> known = Options.known(name)
    List<String> wanted = known + (known.contains('gate') ? Options.knownOfGate().collect { 'gate.' + it } : [])
    List<String> told = documented(help.text)
    mistakes += (wanted - told).collect { "${name}: the help does not tell ${it}" }
    mistakes += (told - wanted).collect { "${name}: the help tells ${it}, which is no option" }
    mistakes += told.countBy { it }.findAll { it.value > 1 }.collect { "${name}: the help tells ${it.key} twice" }
    List<String> lacking = ['Returns a map', '\nExample:\n' + name].findAll { !help.text.contains(it) }
    mistakes += lacking.collect { "${name}: the help lacks '${it.trim()}'" }
    if (!step.text.contains('Map call(Map options = [:])')) {
        mistakes << "${name}: is not called with a map that may be left out"
    }
}
List<File> helps = vars.findAll { it.name.endsWith('.txt') }
mistakes += helps.findAll { !new File(it.path.replace('.txt', '.groovy')).exists() }.collect { "${it.name}: help of no step" }

// -- sandbox, restarts, size -------------------------------------------------------------------------------------------

for (File source in steps + classes) {
    mistakes += Sources.mistakes(source, classes)
}
for (File source in classes) {
    Class type = Class.forName('io.tidegate.' + (source.name - '.groovy'))
    if (!Serializable.isAssignableFrom(type)) {
        mistakes << "${source.name}: is not Serializable"
    }
    if (!type.declaredFields.any { it.name == 'serialVersionUID' }) {
        mistakes << "${source.name}: has no serialVersionUID"
    }
}

// -- keys --------------------------------------------------------------------------------------------------------------

for (int length = 0; length < 200; length++) {
    String text = ('0123456789\u00e4' * 20).substring(0, length)
    String right = MessageDigest.getInstance('SHA-256').digest(text.getBytes('UTF-8')).encodeHex().toString()
    if (Keys.sha256(text) != right) {
        mistakes << "Keys.sha256 is wrong for ${length} characters"
        break
    }
}
for (String job in ['shop', 'team/repo/feature%2Ffoo', 'd\u00e9p\u00f4t and more', 'folder/' * 60]) {
    String key = Keys.of(job, '12', 'Deploy to production')
    mistakes += key ==~ /[\x21-\x7e]{1,200}/ ? [] : ["Keys.of gives '${key}' for the job ${job}"]
    mistakes += key.endsWith('#12/Deploy+to+production') ? [] : ["Keys.of loses the tail of the job ${job}"]
}
mistakes += Keys.of('a' * 300, '1', 's') == Keys.of('b' + 'a' * 299, '1', 's') ? ['Keys.of is the same for two jobs'] : []

if (mistakes) {
    mistakes.each { System.err.println(it) }
    System.exit(1)
}
println "${steps.size()} steps and ${classes.size()} classes keep the conventions"
